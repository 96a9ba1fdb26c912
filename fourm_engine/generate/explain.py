"""Explains what a request would run, without running it: stages, steps, tokens, guidance branches, approximate FLOPs.

In: `Prepared` samples with their plans. Out: an `Explanation`, whose `str` is readable. Where the work depends on the
decoded tokens (the end of a text, an adaptive order), the figures are upper bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fourm_engine.generate.guidance import Branches, Guide, GuideModel, branches_of, progress, single_branch
from fourm_engine.generate.orders import Order
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.prepare import Prepared
from fourm_engine.generate.rows import distinct, length
from fourm_engine.generate.sample import Sample
from fourm_engine.generate.sampler import Sampler
from fourm_engine.generate.schedules import tokens_per_step
from fourm_engine.masking.pack import Shown
from fourm_engine.nn.flops import forward_flops
from fourm_plugins.counting import counted


@dataclass(frozen=True)
class Pass:
    """One pass of the network over the rows of a decoding step. A sequence counts as one pass over all its tokens."""

    step: int
    branches: int
    rows: int  # rows that the encoder runs
    encoder_tokens: int  # over all rows
    decoded: int  # tokens predicted per sample
    kept: int  # how many of them are kept
    flops: float

    def __add__(self, guide: Pass) -> Pass:
        """This pass and the guide's, over the same tokens."""
        rows, tokens = self.rows + guide.rows, self.encoder_tokens + guide.encoder_tokens
        return replace(self, rows=rows, encoder_tokens=tokens, flops=self.flops + guide.flops)


@dataclass(frozen=True)
class ExplainedStage:
    """One stage for one group of samples."""

    stage: Stage
    samples: int
    sees: tuple[str, ...]
    guidance: tuple[str, ...]  # one line per branch, and one of the guide
    passes: tuple[Pass, ...]
    at_most: bool

    @property
    def flops(self) -> float:
        """FLOPs of the matrix products of all passes."""
        return sum(step.flops for step in self.passes)


@dataclass(frozen=True)
class Explanation:
    """The stages in execution order; `str` gives the text."""

    inputs: tuple[str, ...]
    remarks: tuple[str, ...]
    stages: tuple[ExplainedStage, ...]

    @property
    def flops(self) -> float:
        """FLOPs of the matrix products of all stages."""
        return sum(stage.flops for stage in self.stages)

    def __repr__(self) -> str:
        passes = sum(len(stage.passes) for stage in self.stages)
        return f"<Explanation: {counted(len(self.stages), 'stage')}, {passes:,} passes, {_flops(self.flops)}>"

    def __str__(self) -> str:
        lines = [f"given: {', '.join(self.inputs) or 'nothing'}", *(f"plan: {remark}" for remark in self.remarks)]
        for number, stage in enumerate(self.stages, 1):
            first, *others = _lines(stage)
            lines += [f"{number}. {first}", *(f"   {line}" for line in others)]
        bound = "at most " if any(stage.at_most for stage in self.stages) else ""
        return "\n".join([*lines, f"total: {bound}{_flops(self.flops)}; nothing was run"])


def explain(prepared: Prepared, sampler: Sampler, guide: Guide | None = None) -> Explanation:
    """Explain what `prepared` would run."""
    inputs = dict[str, str]()
    for sample, names in zip(prepared.samples, prepared.names, strict=True):
        for name, instance in names.items():
            part = sample.known.get(instance) or sample.shown[instance]
            shown_as = "" if instance == name else f" as {instance}"
            inputs.setdefault(name, f"{name} ({counted(len(part), 'token')}{shown_as})")
    stages = []
    for plan, members in prepared.groups(len(prepared.samples)):
        samples = [sampler.show_known(prepared.samples[i]) for i in members]
        for stage in plan:
            stages.append(_stage(stage, samples, sampler, guide))
            if stage.target in sampler.inputs:  # later stages see at most its maximum number of tokens
                n = sampler.vocabulary[stage.target].layout.num_tokens
                for b, sample in enumerate(samples):
                    tokens = Shown.tokens(np.full(n, 0 if stage.deterministic else b))
                    samples[b] = replace(sample, shown={**sample.shown, stage.target: tokens})
    return Explanation(tuple(inputs.values()), tuple(prepared.remarks), tuple(stages))


def _stage(stage: Stage, samples: Sequence[Sample], sampler: Sampler, guide: Guide | None) -> ExplainedStage:
    branches, order = branches_of(stage, samples, sampler.sequences), sampler.order(stage)
    sees = {name for sample in samples for name in sample.shown} - {stage.target}
    at_most = stage.scheme == "autoregressive" or (order is not None and order.adaptive)
    passes, lines = _passes(stage, samples, branches, order, sampler), _taken(branches, len(samples))
    if guide is not None:
        other = {
            p.step: p for p in _passes(stage, samples, single_branch(stage, sampler.sequences), order, guide.model)
        }
        if stage.scheme != "autoregressive":  # whose cache needs every token
            other = {step: p for step, p in other.items() if guide.at(progress(step - 1, stage.steps)) != 1}
        passes = [p + other[p.step] if p.step in other else p for p in passes]
        ends = dict.fromkeys(f"{guide.at(x):.3g}" for x in (0.0, 1.0))
        size = sum(p.numel() for p in guide.model.network.parameters()) / 1e6
        lines = (*lines, f"guide of {size:.3g} M parameters: weight {' to '.join(ends)}")
    return ExplainedStage(stage, len(samples), tuple(sorted(sees)), lines, tuple(passes), at_most)


def _passes(
    stage: Stage, samples: Sequence[Sample], branches: Branches, order: Order | None, model: Sampler | GuideModel
) -> list[Pass]:
    if stage.scheme == "autoregressive":
        return [_left_to_right(stage, samples, branches, model)]
    return _parallel(stage, samples, branches, order, model)


def _parallel(
    stage: Stage, samples: Sequence[Sample], branches: Branches, order: Order | None, model: Sampler | GuideModel
) -> list[Pass]:
    """The passes that `parallel.ParallelDecoder` would run."""
    fixed = stage.scheme == "random_order" or (order is not None and order.fixed_scores() is not None)
    n = model.vocabulary[stage.target].layout.num_tokens
    rows, known = branches.rows(samples), _known(samples, stage.target)
    which, first = distinct(rows)
    state, _ = distinct(known)  # samples with equal known tokens share their rows
    state = [-1 - b for b in range(len(samples))] if stage.scheme == "random_order" else state
    left, passes = [n - sum(map(len, row.values())) for row in known], []
    counts = [tokens_per_step(stage.schedule, stage.steps, tokens) for tokens in left]
    for step in range(stage.steps):
        kept = {b: row[step] for b, row in enumerate(counts) if step < len(row) and row[step]}
        used = branches.coefficients(len(samples), progress(step, stage.steps)) != 0  # (K, B)
        run = {(which[k * len(samples) + b], state[b]): b for k, b in np.argwhere(used).tolist() if b in kept}
        if not run:
            continue
        lengths = {key: max(1, sum(map(len, rows[first[key[0]]].values())) + n - left[b]) for key, b in run.items()}
        decoded = {b: count if fixed else left[b] for b, count in kept.items()}
        flops = _flops_of(model, {}, 0, 0, {stage.target: sum(decoded.values())})
        flops += sum(_flops_of(model, rows[first[key[0]]], lengths[key], decoded[b]) for key, b in run.items())
        taken, most_decoded, most_kept = used[:, list(kept)].any(1).sum(), max(decoded.values()), max(kept.values())
        passes.append(Pass(step + 1, int(taken), len(run), sum(lengths.values()), most_decoded, most_kept, flops))
        for b, count in kept.items():
            left[b] -= count
            state[b] = -1 - b
    return passes


def _left_to_right(stage: Stage, samples: Sequence[Sample], branches: Branches, model: Sampler | GuideModel) -> Pass:
    """One encoding of each distinct row, then one token at a time for every sample and branch."""
    n = model.vocabulary[stage.target].layout.num_tokens
    limit = min(stage.max_tokens or n, n)
    rows = [{**row, **part} for row, part in zip(branches.rows(samples), _known(samples, stage.target) * len(branches))]
    which, first = distinct(rows)
    coefficients = [branches.coefficients(len(samples), progress(step, limit)) for step in range(limit)]
    used = (np.array(coefficients) != 0).any(0)  # (K, B)
    run = np.array(which)[used.flatten()].tolist()
    lengths = {i: length(rows[first[i]]) for i in set(run)}
    once = {i: _flops_of(model, rows[first[i]], lengths[i], 0) for i in lengths}
    flops = sum(once.values()) + sum(_flops_of(model, rows[first[i]], lengths[i], limit) - once[i] for i in run)
    flops += _flops_of(model, {}, 0, 0, {stage.target: limit * len(samples)})
    return Pass(1, int(used.any(1).sum()), len(lengths), sum(lengths.values()), limit, limit, flops)


def _known(samples: Sequence[Sample], target: str) -> list[dict[str, Shown]]:
    return [{target: s.known[target]} if target in s.known else {} for s in samples]


def _flops_of(
    model: Sampler | GuideModel,
    row: Mapping[str, Shown],
    encoded: int,
    decoded: int,
    targets: Mapping[str, float] | None = None,
) -> float:
    """FLOPs of one row; with `targets`, only those of the output heads, which run once for all branches."""
    patches = {name: len(part) for name, part in row.items() if part.features is not None}
    config, sizes = model.network.config, {"B": int(targets is None), "N": encoded, "M": decoded}
    return sum(forward_flops(config, model.vocabulary, **sizes, targets=targets or {}, patches=patches).values())


def _taken(branches: Branches, samples: int) -> tuple[str, ...]:
    """One line per branch: the conditions hidden from it, and its share."""
    first, last = branches.coefficients(samples, 0.0), branches.coefficients(samples, 1.0)
    lines = []
    for k, hidden in enumerate(branches.hidden):
        coefficients = [f"{x:.3g}" if x == y else f"{x:.3g} to {y:.3g}" for x, y in zip(first[k], last[k], strict=True)]
        lines.append(f"branch {k + 1}, {_without(hidden)}: share {', '.join(dict.fromkeys(coefficients))}")
    return tuple(lines) if len(lines) > 1 else ()


def _without(hidden: frozenset[str]) -> str:
    return f"without {', '.join(sorted(hidden))}" if hidden else "sees everything"


def _lines(explained: ExplainedStage) -> list[str]:
    stage, passes = explained.stage, explained.passes
    how = [counted(explained.samples, "sample")] if explained.samples > 1 else []
    if stage.scheme == "autoregressive":
        how += ["left to right", f"at most {counted(passes[0].decoded, 'token')}"]
    else:
        settings = "".join(f", {name} {value:g}" for name, value in stage.order.items())
        how += [f"{stage.scheme}{settings}", counted(stage.steps, "step")]
    how.append(f"temperature {stage.temperature:g}" if stage.temperature else "the likeliest tokens")
    how += [f"top-p {stage.top_p:g}"] if stage.top_p is not None else []
    how += [f"top-k {stage.top_k}"] if stage.top_k is not None else []
    how += ["decoded from probabilities"] if stage.readout == "expected" else []
    lines = [f"{stage.target}: {', '.join(how)}; sees {', '.join(explained.sees) or 'nothing'}"]
    if stage.scheme != "autoregressive":
        idle = stage.steps - len(passes)
        skipped = f" ({counted(idle, 'empty step')} skipped)" if idle else ""
        lines.append(f"tokens kept per step: {' '.join(str(step.kept) for step in passes)}{skipped}")
    lines += explained.guidance
    bound = "at most " if explained.at_most else ""
    rows, tokens = sum(step.rows for step in passes), sum(step.encoder_tokens for step in passes)
    return [*lines, f"{counted(rows, 'row')} of {tokens:,} tokens encoded, {bound}{_flops(explained.flops)}"]


def _flops(count: float) -> str:
    power = min(5, int(math.log10(max(1.0, count)) / 3))
    return f"{count / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P')[power]}FLOPs"

"""The sampler: executes a plan on a batch of samples, on tokens alone.

In: `Sample`s (local ids), a plan, a seed a sample. Out: for each sample and stage a `Filled`: its tokens, with
probabilities where the stage requests them. Branches of guidance are stacked on the batch axis.

Grids and vectors are decoded in parallel: each step encodes again what is known so far and predicts the rest from mask
tokens. Sequences are decoded left to right with cached keys and values from one encoding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fourm_engine.batch import Tokens
from fourm_engine.generate.guidance import Branches, branches
from fourm_engine.generate.orders import BUILT_IN, Order
from fourm_engine.generate.plan import Stage, temperatures, tokens_per_step
from fourm_engine.generate.sampling import draw, generators, log_probability, most_confident, uniforms
from fourm_engine.generate.shown import Sample, SequenceIds
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_plugins.manager import PluginManager


@dataclass(frozen=True)
class Filled:
    """One generated modality of one sample."""

    ids: np.ndarray  # (n,) int64 local ids; a sequence without its end marker
    probabilities: np.ndarray | None = None  # (n, V) float32


class Sampler:
    """`sequences` holds the special ids of every sequence that may be generated or hidden by guidance; `inputs` the
    modalities that the encoder may be shown, which later stages see; `host` provides the orders that packages add."""

    def __init__(
        self,
        network: Transformer,
        vocabulary: Vocabulary,
        *,
        sequences: Mapping[str, SequenceIds],
        inputs: Collection[str],
        host: PluginManager | None = None,
    ) -> None:
        self.network = network
        self.vocabulary = vocabulary
        self.sequences = dict(sequences)
        self.inputs = set(inputs)
        self.host = host
        self._orders: dict[str, Order] = {}

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def run(self, samples: Sequence[Sample], plan: Sequence[Stage], seeds: Sequence[int]) -> list[dict[str, Filled]]:
        """{target: Filled} of each sample. `samples` are left as they are."""
        assert len(samples) == len(seeds)
        if not samples:
            return []
        samples = [Sample({**self._beginnings(s), **s.shown}, dict(s.known), weights=dict(s.weights)) for s in samples]
        rngs, results = generators(seeds), [dict[str, Filled]() for _ in samples]
        training = self.network.training
        self.network.eval()
        try:
            for stage in plan:
                sequence = self._check(stage).layout.kind == "sequence"
                filled = (self._left_to_right if sequence else self._in_parallel)(samples, stage, rngs)
                for sample, result, part in zip(samples, results, filled, strict=True):
                    result[stage.target] = part
                    if stage.target in self.inputs:
                        end = [self.sequences[stage.target].end] if sequence else []
                        length = self.vocabulary[stage.target].layout.num_tokens
                        sample.shown[stage.target] = Shown.tokens(np.append(part.ids, end).astype(np.int64)[:length])
        finally:
            self.network.train(training)
        return results

    def order(self, stage: Stage) -> Order | None:
        """The order of a package that decides this stage, None where a built-in scheme does. Raises PluginError."""
        name = stage.scheme
        if name in BUILT_IN:
            return None
        if name not in self._orders:
            self._orders[name] = Order(name, self.host or PluginManager())
        return self._orders[name]

    def _beginnings(self, sample: Sample) -> dict[str, Shown]:
        """What is known of targets, as stages before see it: behind the beginning of a sequence a sentinel, as in
        training."""
        return {
            name: Shown.tokens(np.append(part.ids, self.sequences[name].start)) if name in self.sequences else part
            for name, part in sample.known.items()
            if name in self.inputs
        }

    def _check(self, stage: Stage) -> Entry:
        entry = self.vocabulary[stage.target]
        if entry.size == 0:
            raise ValueError(f"{stage.target} is continuous input and cannot be generated")
        if (entry.layout.kind == "sequence") != (stage.scheme == "autoregressive"):
            fitting = "autoregressive" if entry.layout.kind == "sequence" else "parallel, random_order or an order"
            raise ValueError(f"{stage.target} is a {entry.layout.kind}: its scheme is {fitting}, not {stage.scheme}")
        return entry

    # Parallel decoding

    def _in_parallel(self, samples: Sequence[Sample], stage: Stage, rngs: Sequence[torch.Generator]) -> list[Filled]:
        entry, device = self.vocabulary[stage.target], self.device
        n, batch = entry.layout.num_tokens, len(samples)
        ids_Bn = torch.zeros(batch, n, dtype=torch.int64)
        known_Bn = torch.zeros(batch, n, dtype=torch.bool)
        for b, sample in enumerate(samples):
            if part := sample.known.get(stage.target):
                ids_Bn[b, part.pos], known_Bn[b, part.pos] = torch.from_numpy(part.ids), True
        left = [n - int(count) for count in known_Bn.sum(1)]
        ids_Bn, known_Bn = ids_Bn.to(device), known_Bn.to(device)

        # Everything random is drawn before the first step, in amounts that the other samples do not change.
        uniform_SBn = uniforms(rngs, stage.steps, n, device=device).transpose(0, 1)
        priority_Bn = uniforms(rngs, n, device=device) if stage.scheme == "random_order" else None
        order = self.order(stage)
        luck_SBn = None if order is None else uniforms(rngs, stage.steps, n, device=device).transpose(0, 1)
        counts = [tokens_per_step(stage.schedule, stage.steps, tokens) for tokens in left]
        counts = [row + [0] * (stage.steps - len(row)) for row in counts]  # linear takes fewer steps for few tokens
        heats = [
            temperatures(
                stage.temperature_schedule,
                row,
                temperature=stage.temperature,
                minimum=stage.temperature_min,
                power=stage.temperature_power,
            )
            for row in counts
        ]
        plan = branches(stage, samples, self.sequences)
        rows = plan.rows(samples)
        shown = max(sum(map(len, row.values())) for row in rows)
        # With compiled blocks every step of the stage has one shape; else no step is larger than it must be.
        fixed = self.network.config.compile
        most_known, most_left = max(n - row[-1] for row in counts), max(left)
        probabilities = torch.zeros(batch, n, entry.size, device=device) if stage.readout == "expected" else None
        if probabilities is not None:
            probabilities.scatter_(2, ids_Bn[..., None], known_Bn[..., None].float())
        base, continuous = pack_inputs(rows, self.vocabulary, shown, device)

        for step in range(stage.steps):
            count = [row[step] for row in counts]
            if not any(count):
                continue
            count_B = torch.tensor(count, device=device)
            predicted_Bn = ~known_Bn
            if priority_Bn is not None:  # only what this step reveals is predicted
                predicted_Bn = most_confident(priority_Bn, predicted_Bn, count_B)
            width = most_left if fixed else max(count if priority_Bn is not None else left)
            seen = most_known if fixed else max(n - k for k in left)
            encoder = _append(base, ids_Bn, known_Bn, entry, seen, len(plan))
            context, valid = self.network.encode(encoder, continuous)

            index_BM, slot_BM = _compact(predicted_Bn, width)
            mod_BM = torch.where(slot_BM, entry.index, -1)
            masked = Tokens(torch.full_like(index_BM, -1), index_BM, mod_BM, torch.zeros_like(index_BM))
            y = self.network.decode(Tokens(*(x.repeat(len(plan), 1) for x in vars(masked).values())), context, valid)
            logits_BMV = plan.combine(self.network.logits(y, stage.target).float())

            heat_B1 = torch.tensor([row[step] for row in heats], device=device)[:, None]
            new_BM = draw(
                logits_BMV,
                uniform_SBn[step].gather(1, index_BM),
                temperature=heat_B1 if stage.temperature > 0 else None,
                top_k=stage.top_k,
                top_p=stage.top_p,
            )
            kept_BM = slot_BM
            if priority_Bn is None:
                score_BM = log_probability(logits_BMV, new_BM)
                if order is not None and luck_SBn is not None:
                    score_BM = order(score_BM, index_BM, slot_BM, luck_SBn[step], step=step, steps=stage.steps)
                kept_BM = most_confident(score_BM, slot_BM, count_B)
            row, slot = kept_BM.nonzero(as_tuple=True)
            position = index_BM[row, slot]
            ids_Bn[row, position] = new_BM[row, slot]
            known_Bn[row, position] = True
            if probabilities is not None:
                probabilities[row, position] = logits_BMV[row, slot].softmax(-1)
            left = [tokens - k for tokens, k in zip(left, count, strict=True)]
        assert not any(left)
        return [
            Filled(ids, None if probabilities is None else probabilities[b].cpu().numpy())
            for b, ids in enumerate(ids_Bn.cpu().numpy())
        ]

    # Left to right

    def _left_to_right(self, samples: Sequence[Sample], stage: Stage, rngs: Sequence[torch.Generator]) -> list[Filled]:
        entry, special = self.vocabulary[stage.target], self.sequences[stage.target]
        limit = min(stage.max_tokens or entry.layout.num_tokens, entry.layout.num_tokens)
        plan = branches(stage, samples, self.sequences)
        rows = plan.rows(samples)
        prefixes = [sample.known.get(stage.target) for sample in samples]
        for row, prefix in zip(rows, [*prefixes] * len(plan), strict=True):
            if prefix is not None:
                row[stage.target] = Shown.tokens(np.append(prefix.ids, special.start))
        uniform_BL = uniforms(rngs, entry.layout.num_tokens, device=self.device)
        ids_BL = self.autoregressive(
            rows,
            plan,
            stage.target,
            limit,
            stop=special.stop,
            uniform_BL=uniform_BL,
            temperature=stage.temperature,
            top_k=stage.top_k,
            top_p=stage.top_p,
        )
        filled = []
        for ids, prefix in zip(ids_BL.cpu().numpy(), prefixes, strict=True):
            stops = np.flatnonzero(np.isin(ids, list(special.stop)))
            ids = ids[: stops[0]] if len(stops) else ids
            filled.append(Filled(ids if prefix is None else np.append(prefix.ids, ids)[:limit]))
        return filled

    @torch.inference_mode()
    def autoregressive(
        self,
        rows: Sequence[Mapping[str, Shown]],
        plan: Branches,
        target: str,
        limit: int,
        *,
        stop: Collection[int],
        uniform_BL: Tensor,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Local ids, int64 (B, ≤ limit), until every row holds a `stop` id; what follows it in a row means nothing."""
        entry, device = self.vocabulary[target], self.device
        base, continuous = pack_inputs(rows, self.vocabulary, max(sum(map(len, r.values())) for r in rows), device)
        context, valid = self.network.encode(base, continuous)
        cache = self.network.start_cache(context, valid, limit)
        batch = len(rows) // len(plan)
        heat_B = torch.full((batch,), temperature, device=device) if temperature > 0 else None
        stops = torch.tensor(sorted(stop), dtype=torch.int64, device=device)
        mod = torch.full((len(rows),), entry.index, device=device)
        ids_B = torch.full((batch,), self.sequences[target].start, device=device)
        done_B, ids = torch.zeros(batch, dtype=torch.bool, device=device), []
        for step in range(limit):
            rank = torch.full_like(mod, step)
            y = self.network.decode_step((ids_B + entry.start).repeat(len(plan)), rank, mod, cache)
            logits_BV = plan.combine(self.network.logits(y, target).float())
            ids_B = draw(logits_BV, uniform_BL[:, step], temperature=heat_B, top_k=top_k, top_p=top_p)
            ids.append(ids_B)
            done_B |= torch.isin(ids_B, stops)
            if bool(done_B.all()):
                break
        return torch.stack(ids, dim=1)


def _compact(mask_Bn: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Positions of the True entries of each row (at most `width`), ascending, in (B, width) slots; which slots hold
    one."""
    index_BM = (~mask_Bn).int().argsort(dim=1, stable=True)[:, :width]
    return index_BM, mask_Bn.gather(1, index_BM)


def _append(base: Tokens, ids_Bn: Tensor, known_Bn: Tensor, entry: Entry, width: int, repeat: int) -> Tokens:
    """The encoder's tokens, and after them `width` slots for the target's known tokens, in every branch."""
    if width == 0:
        return base
    index, slot = (x.repeat(repeat, 1) for x in _compact(known_Bn, width))
    rows = torch.where(slot, ids_Bn.repeat(repeat, 1).gather(1, index) + entry.start, -1)
    known = Tokens(rows, index, torch.where(slot, entry.index, -1), torch.zeros_like(index))
    return Tokens(*(torch.cat(pair, 1) for pair in zip(vars(base).values(), vars(known).values(), strict=True)))

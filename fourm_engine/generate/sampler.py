"""The sampler: runs a plan on a batch of samples, on tokens only.

In: `Sample`s (local ids), a plan, one seed per sample. Out: for each sample and stage a `Filled`: its tokens, and
probabilities if the stage requests them. The branches of guidance are stacked on the batch axis.

Grids and vectors are decoded in parallel (`generate/parallel.py`), sequences left to right (`generate/cached.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fourm_engine.device import at_hand
from fourm_engine.generate.cached import Cached
from fourm_engine.generate.graphs import Graphs
from fourm_engine.generate.guidance import Branches, Guide, branches, plain
from fourm_engine.generate.left_to_right import Drawing, TokenStep
from fourm_engine.generate.orders import BUILT_IN, Order
from fourm_engine.generate.parallel import Filled, Parallel, Side, Watch
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample, SequenceIds
from fourm_engine.generate.sampling import generators, uniforms
from fourm_engine.masking.pack import Shown
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_plugins.manager import PluginManager

__all__ = ["Filled", "Sampler"]

#: Tokens between checks of whether all samples have ended: on a GPU, each check waits for the device.
TOKENS_BETWEEN_CHECKS = 16


class Sampler:
    """Args:
    vocabulary: including the scales of its modalities, if greedy decoding is to use them (see `sampling.likeliest`).
    sequences: the special ids of every sequence that may be generated, or hidden by guidance.
    inputs: the modalities that the encoder may see, and hence later stages.
    host: provides the decoding orders of packages.

    On a GPU, recurring work is recorded as CUDA graphs, unless `graphs.enabled` is set to False."""

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
        self._host = host
        self.graphs = Graphs()
        self._watch: Watch | None = None

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Call `watch` after each step of a grid or vector and each token of a sequence, within the block."""
        before, self._watch = self._watch, watch
        try:
            yield
        finally:
            self._watch = before

    @cached_property
    def _manager(self) -> PluginManager:
        return self._host or PluginManager()

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def run(
        self, samples: Sequence[Sample], plan: Sequence[Stage], seeds: Sequence[int], guide: Guide | None = None
    ) -> list[dict[str, Filled]]:
        """Run a plan. Returns {target: Filled} for each sample, and leaves `samples` unchanged."""
        assert len(samples) == len(seeds)
        if not samples:
            return []
        samples = [self.started(sample) for sample in samples]
        rngs, results = generators(seeds), [dict[str, Filled]() for _ in samples]
        networks = [self.network] if guide is None else [self.network, guide.model.network]
        training = [network for network in networks if network.training]
        for network in training:
            network.eval()
        try:
            with self.graphs.in_use():
                for stage in plan:
                    sequence = self._check(stage).layout.kind == "sequence"
                    if sequence:
                        filled = self._left_to_right(samples, stage, rngs, guide)
                    else:
                        ways = branches(stage, samples, self.sequences)
                        sides = [Side(self.network, self.vocabulary, ways, samples, self.graphs)]
                        if guide is not None:
                            ways = plain(stage, self.sequences)
                            sides.append(Side(guide.model.network, guide.model.vocabulary, ways, samples, self.graphs))
                        filled = Parallel(samples, stage, self.order(stage), rngs, sides, guide).run(self._watch)
                    for sample, result, part in zip(samples, results, filled, strict=True):
                        result[stage.target] = part
                        if stage.target in self.inputs:
                            end = [self.sequences[stage.target].end] if sequence else []
                            length = self.vocabulary[stage.target].layout.num_tokens
                            sample.shown[stage.target] = Shown.tokens(
                                np.append(part.ids, end).astype(np.int64)[:length]
                            )
        finally:
            for network in training:
                network.train()
        return results

    def order(self, stage: Stage) -> Order | None:
        """The decoding order of a stage, or None for a built-in scheme. Raises PluginError if it cannot be used, and
        ValueError for settings that it does not accept."""
        if stage.scheme in BUILT_IN:
            return None
        assert stage.scheme is not None  # the request has been completed
        return Order(stage.scheme, self._manager, self.vocabulary[stage.target].layout, stage.order)

    def started(self, sample: Sample) -> Sample:
        """A copy of the sample that also shows the known part of its targets to earlier stages. The beginning of a
        sequence ends with a sentinel, as in training."""
        beginnings = {
            name: Shown.tokens(np.append(part.ids, self.sequences[name].start)) if name in self.sequences else part
            for name, part in sample.known.items()
            if name in self.inputs
        }
        return replace(sample, shown={**beginnings, **sample.shown}, known=dict(sample.known))

    def _check(self, stage: Stage) -> Entry:
        entry = self.vocabulary[stage.target]
        if entry.size == 0:
            raise ValueError(f"{stage.target} is continuous input and cannot be generated")
        if (entry.layout.kind == "sequence") != (stage.scheme == "autoregressive"):
            fitting = "autoregressive" if entry.layout.kind == "sequence" else "parallel, random_order or an order"
            raise ValueError(f"{stage.target} is a {entry.layout.kind}: its scheme is {fitting}, not {stage.scheme}")
        return entry

    # Left-to-right decoding

    def _left_to_right(
        self, samples: Sequence[Sample], stage: Stage, rngs: Sequence[torch.Generator], guide: Guide | None
    ) -> list[Filled]:
        entry, special = self.vocabulary[stage.target], self.sequences[stage.target]
        limit = min(stage.max_tokens or entry.layout.num_tokens, entry.layout.num_tokens)
        plan, single = branches(stage, samples, self.sequences), plain(stage, self.sequences)
        prefixes = [sample.known.get(stage.target) for sample in samples]

        def rows(plan: Branches) -> list[dict[str, Shown]]:
            rows = plan.rows(samples)
            for row, prefix in zip(rows, [*prefixes] * len(plan), strict=True):
                if prefix is not None:
                    row[stage.target] = Shown.tokens(np.append(prefix.ids, special.start))
            return rows

        guided = None
        if guide is not None:
            network, vocabulary = guide.model.network, guide.model.vocabulary
            guided = guide, Cached(network, vocabulary, rows(single), single, stage.target, limit)
        uniform_BL = uniforms(rngs, entry.layout.num_tokens, device=self.device)
        ids_BL, confidence_BL = self.autoregressive(
            rows(plan),
            plan,
            stage.target,
            limit,
            stop=special.stop,
            uniform_BL=uniform_BL,
            temperature=stage.temperature,
            top_k=stage.top_k,
            top_p=stage.top_p,
            guided=guided,
        )
        filled = []
        for ids, sure, prefix in zip(ids_BL.cpu().numpy(), confidence_BL.cpu().numpy(), prefixes, strict=True):
            stops = np.flatnonzero(np.isin(ids, list(special.stop)))
            ids = ids[: stops[0]] if len(stops) else ids
            known = np.empty(0, np.int64) if prefix is None else prefix.ids
            sure = np.append(np.ones(len(known), np.float32), sure[: len(ids)])
            filled.append(Filled(np.append(known, ids)[:limit], confidence=sure[:limit]))
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
        guided: tuple[Guide, Cached] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode until every row has a `stop` id: local ids, int64 (B, ≤ limit), and the model's probability of each,
        float32. Entries after a `stop` id are undefined."""
        cached = Cached(self.network, self.vocabulary, rows, plan, target, limit)
        drawing, start = Drawing(temperature, top_k, top_p), self.sequences[target].start
        step = TokenStep(cached, guided, drawing, start=start, stop=stop, uniform_BL=uniform_BL)
        # A step number on the host makes the first tokens cheaper, but a recording cannot depend on it.
        waits = not at_hand(uniform_BL)
        step, advance = self.graphs.repeated(step, limit, self.network, alone=guided is None) if waits else (step, step)
        # A check synchronises with the device; tokens decoded beyond the end are dropped.
        check_every = TOKENS_BETWEEN_CHECKS if waits else 1
        for length in range(1, limit + 1):
            if waits:
                advance()
            else:
                step(length - 1)
            if self._watch is not None:
                so_far_BL = step.ids_BL[:, :length].cpu()
                stopped_BL = torch.isin(so_far_BL, step.stops.cpu()).cumsum(1) > 0
                self._watch(target, so_far_BL.numpy(), ~stopped_BL.numpy())
            if length % check_every == 0 and bool(step.done_B.all()):
                break
        return step.ids_BL[:, :length].clone(), step.sure_BL[:, :length].clone()

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

from fourm_engine.device import on_host
from fourm_engine.generate.cached import CachedDecoder
from fourm_engine.generate.graphs import Graphs
from fourm_engine.generate.guidance import Branches, Guide, branches_of, single_branch
from fourm_engine.generate.left_to_right import Drawing, TokenStep
from fourm_engine.generate.orders import BUILT_IN, Order
from fourm_engine.generate.parallel import BranchDecoder, Filled, ParallelDecoder, StepCallback
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
    vocabulary: including its `ordinal_ranges`, if greedy decoding is to use them (see `sampling.likeliest`).
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
        self._callback: StepCallback | None = None

    @contextmanager
    def step_callback(self, callback: StepCallback) -> Iterator[None]:
        """Call `callback` after each step of a grid or vector and each token of a sequence, within the block."""
        before, self._callback = self._callback, callback
        try:
            yield
        finally:
            self._callback = before

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
        samples = [self.show_known(sample) for sample in samples]
        rngs, results = generators(seeds), [dict[str, Filled]() for _ in samples]
        networks = [self.network] if guide is None else [self.network, guide.model.network]
        with _evaluation_mode(networks), self.graphs.in_use():
            for stage in plan:
                decode = self._left_to_right if self._check(stage).layout.kind == "sequence" else self._parallel
                for sample, result, filled in zip(samples, results, decode(samples, stage, rngs, guide), strict=True):
                    result[stage.target] = filled
                    if stage.target in self.inputs:
                        sample.shown[stage.target] = self._as_input(stage.target, filled.ids)
        return results

    def _as_input(self, target: str, ids: np.ndarray) -> Shown:
        """A generated target as later stages see it: a sequence with its end marker, if there is room for it."""
        layout = self.vocabulary[target].layout
        if layout.kind == "sequence":
            ids = np.append(ids, self.sequences[target].end)[: layout.num_tokens]
        return Shown.tokens(ids.astype(np.int64))

    def order(self, stage: Stage) -> Order | None:
        """The decoding order of a stage, or None for a built-in scheme. Raises PluginError if it cannot be used, and
        ValueError for settings that it does not accept."""
        if stage.scheme in BUILT_IN:
            return None
        assert stage.scheme is not None  # the request has been completed
        return Order(stage.scheme, self._manager, self.vocabulary[stage.target].layout, stage.order)

    def show_known(self, sample: Sample) -> Sample:
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

    def _parallel(
        self, samples: Sequence[Sample], stage: Stage, rngs: Sequence[torch.Generator], guide: Guide | None
    ) -> list[Filled]:
        branches = branches_of(stage, samples, self.sequences)
        decoders = [BranchDecoder(self.network, self.vocabulary, branches, samples, self.graphs)]
        if guide is not None:
            branches, model = single_branch(stage, self.sequences), guide.model
            decoders.append(BranchDecoder(model.network, model.vocabulary, branches, samples, self.graphs))
        return ParallelDecoder(samples, stage, self.order(stage), rngs, decoders, guide).run(self._callback)

    def _left_to_right(
        self, samples: Sequence[Sample], stage: Stage, rngs: Sequence[torch.Generator], guide: Guide | None
    ) -> list[Filled]:
        entry, special = self.vocabulary[stage.target], self.sequences[stage.target]
        limit = min(stage.max_tokens or entry.layout.num_tokens, entry.layout.num_tokens)
        branches, single = branches_of(stage, samples, self.sequences), single_branch(stage, self.sequences)
        prefixes = [sample.known.get(stage.target) for sample in samples]

        def rows(branches: Branches) -> list[dict[str, Shown]]:
            rows = branches.rows(samples)
            for row, prefix in zip(rows, [*prefixes] * len(branches), strict=True):
                if prefix is not None:
                    row[stage.target] = Shown.tokens(np.append(prefix.ids, special.start))
            return rows

        guided = None
        if guide is not None:
            network, vocabulary = guide.model.network, guide.model.vocabulary
            guided = guide, CachedDecoder(network, vocabulary, rows(single), single, stage.target, limit)
        uniform_BL = uniforms(rngs, entry.layout.num_tokens, device=self.device)
        ids_BL, confidence_BL = self.autoregressive(
            rows(branches),
            branches,
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
        for ids, confidence, prefix in zip(ids_BL.cpu().numpy(), confidence_BL.cpu().numpy(), prefixes, strict=True):
            stops = np.flatnonzero(np.isin(ids, list(special.stop)))
            ids = ids[: stops[0]] if len(stops) else ids
            known = np.empty(0, np.int64) if prefix is None else prefix.ids
            confidence = np.append(np.ones(len(known), np.float32), confidence[: len(ids)])
            filled.append(Filled(np.append(known, ids)[:limit], confidence=confidence[:limit]))
        return filled

    @torch.inference_mode()
    def autoregressive(
        self,
        rows: Sequence[Mapping[str, Shown]],
        branches: Branches,
        target: str,
        limit: int,
        *,
        stop: Collection[int],
        uniform_BL: Tensor,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guided: tuple[Guide, CachedDecoder] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode until every row has a `stop` id: local ids, int64 (B, ≤ limit), and the model's probability of each,
        float32. Entries after a `stop` id are undefined."""
        cached = CachedDecoder(self.network, self.vocabulary, rows, branches, target, limit)
        drawing, start = Drawing(temperature, top_k, top_p), self.sequences[target].start
        step = TokenStep(cached, guided, drawing, start=start, stop=stop, uniform_BL=uniform_BL)
        # A step number on the host makes the first tokens cheaper, but a recording cannot depend on it.
        waits = not on_host(uniform_BL)
        step, advance = self.graphs.repeated(step, limit, self.network, alone=guided is None) if waits else (step, step)
        # A check synchronises with the device; tokens decoded beyond the end are dropped.
        check_every = TOKENS_BETWEEN_CHECKS if waits else 1
        for length in range(1, limit + 1):
            if waits:
                advance()
            else:
                step(length - 1)
            if self._callback is not None:
                so_far_BL = step.ids_BL[:, :length].cpu()
                stopped_BL = torch.isin(so_far_BL, step.stops.cpu()).cumsum(1) > 0
                self._callback(target, so_far_BL.numpy(), ~stopped_BL.numpy())
            if length % check_every == 0 and bool(step.done_B.all()):
                break
        return step.ids_BL[:, :length].clone(), step.confidence_BL[:, :length].clone()


@contextmanager
def _evaluation_mode(networks: Sequence[Transformer]) -> Iterator[None]:
    training = [network for network in networks if network.training]
    for network in training:
        network.eval()
    try:
        yield
    finally:
        for network in training:
            network.train()

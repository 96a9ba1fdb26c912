"""The samples of a task: inputs and a target, read from raw files through one view.

The item at a position is a pure function of (seed, position), whichever process computes it: crops, dropped inputs, and
the partner that a sample is mixed with (position 2i with 2i + 1). An unusable sample is replaced by the next one in the
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.order import Order, sample_rng
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.store import RawStore
from fourm_engine.data.views import DrawnViews, ViewDrawer
from fourm_engine.device import rank_and_world
from fourm_engine.masking.pack import Shown, ordered, pack_inputs
from fourm_engine.transfer.augmentation import PictureAugmentation
from fourm_engine.transfer.classification import Classification
from fourm_engine.transfer.mixup import Mixing
from fourm_engine.transfer.network import TaskBatch
from fourm_engine.transfer.objective import Objective, Target, stack_targets
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer

#: Added to the run's seed for the generator of a pair of samples to mix.
_PAIR = 0x6D6978


@dataclass(frozen=True)
class TaskSample:
    """Inputs by name, the target, and the true value in the modality's units, if there is one."""

    shown: dict[str, Shown]
    target: Target
    truth: Any = None


class TaskSamples(Dataset[TaskSample]):
    """The samples of `data` that have an input and a target.

    Args:
        inputs, tokenizers: name -> modality, and name -> tokenizer for those with tokens.
        vocabulary: of the inputs.
        mixing: mixup or cutmix of two training samples; `augmentation`: augmentation of their pictures.
        dropout: see `task.modality_dropout`.

    Raises ValueError if, judging by names, too few samples are usable."""

    def __init__(
        self,
        data: AlignedData,
        inputs: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
        objective: Objective,
        vocabulary: Vocabulary,
        drawer: ViewDrawer,
        config: DataConfig,
        *,
        seed: int,
        training: bool,
        batch_size: int | None = None,
        mixing: Mixing | None = None,
        augmentation: PictureAugmentation | None = None,
        dropout: float = 0.0,
    ) -> None:
        self.data, self.objective, self.vocabulary, self.seed = data, objective, vocabulary, seed
        self.inputs, self.training = ordered(vocabulary, inputs), training
        self.mixing, self.dropout = mixing, dropout
        seen = DrawnViews(drawer, data, config.views if training else 1)
        self.store = RawStore(data, tokenizers, seen, cache_bytes=config.cache_mb << 20, alter=augmentation)
        names, wanted = range(len(data.names)), set(self.inputs)
        usable = [row for row in names if wanted & data.has_at(row) and objective.has_target(data, row)]
        self._rows = np.array(usable, np.int64)
        if len(usable) < objective.fewest:
            few = f"only {len(usable)}" if usable else "none"
            needs = objective.needs.format(", ".join(self.inputs))
            raise ValueError(f"{data.root}: {few} of the {counted(len(names), 'sample')} has {needs}; {data.report()}")
        world = rank_and_world()[1]
        lanes = config.lanes if training else 1
        self.order = Order.choose(
            np.array([len(usable)]), seed, lanes=lanes, window=config.window, batch_size=batch_size, world=world
        )
        tokens = {entry.name: entry.layout.num_tokens for entry in vocabulary}
        #: Number of tokens of the most inputs that are encoded together.
        self.capacity = max(sum(tokens[name] for name in group) for group in objective.groups(self.inputs))

    def __len__(self) -> int:
        return len(self._rows)

    def describe(self) -> str:
        left = len(self.data.names) - len(self)
        return self.data.describe() + (f"; {left} without an input or a target are left out" if left else "")

    def identity(self) -> dict[str, Any]:
        return {**self.store.identity(), **self.order.identity(), "samples": len(self)}

    def __getitem__(self, position: int) -> TaskSample:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[TaskSample]:
        """The samples of a micro-batch. Called by the DataLoader."""
        read: dict[int, TaskSample] = {}

        def at(position: int) -> TaskSample:
            if position not in read:
                read[position] = self._usable(position)[1]
            return read[position]

        if self.mixing is None:
            return [self._drop_inputs(at(position), position) for position in positions]
        return [self._drop_inputs(self._mixed(at(p), at(p ^ 1), p), p) for p in positions]

    def name(self, position: int) -> str:
        """The name of the sample at a position. Reads the sample, since another one may replace it."""
        return self._usable(position)[0]

    def held_out(self, index: int) -> list[TaskSample]:
        """Sample number `index` through its centre crop, followed by its further alternatives if the objective measures
        them, each with the inputs encoded with it; empty if it cannot be used."""
        if (first := self._read(index, 0)) is None:
            return []
        return [first, *(self._alternatives(index, first) if self.objective.alternatives else ())]

    def collated(self, samples: Sequence[TaskSample]) -> TaskBatch:
        """The samples as a batch: one row each, or with several groups of inputs those of the first group, and so
        on."""
        groups = self.objective.groups(self.inputs)
        rows = [{name: s.shown[name] for name in group if name in s.shown} for group in groups for s in samples]
        tokens, continuous = pack_inputs(rows, self.vocabulary, self.capacity, "cpu")
        targets = stack_targets([sample.target for sample in samples])
        return TaskBatch(tokens, continuous, targets, self.objective.count(targets))

    def empty(self) -> TaskBatch:
        """A batch of one sample without inputs and targets."""
        return TaskBatch(*pack_inputs([{}], self.vocabulary, self.capacity, "cpu"), {}, 0)

    def _usable(self, position: int) -> tuple[str, TaskSample]:
        epoch, index = divmod(position, len(self))
        number = int(sample_rng(self.seed, epoch, index).integers(self.store.views))
        for row in self.order.rows(position):
            if (sample := self._read(row, number)) is not None:
                return self.data.names[int(self._rows[row])], sample
        raise ValueError(f"{self.data.root}: none of the {counted(len(self), 'sample')} can be used; see the warnings")

    def _read(self, index: int, number: int) -> TaskSample | None:
        row = int(self._rows[index])
        name, present, shown = self.data.names[row], self.store.has(row), dict[str, Shown]()
        for modality in self.inputs:
            if modality not in present:
                continue
            try:
                shown[modality] = self._shown(modality, self.store.load(row, modality, number))
            except BadFile as bad:
                self.data.skip(name, bad)
        if not shown:
            return None
        try:
            target, truth = self.objective.target(self.data, name, self.store.seen.get(name, number), number, shown)
        except BadFile as bad:
            self.data.skip(name, bad)
            return None
        return TaskSample(shown, target, None if self.training else truth)

    def _alternatives(self, index: int, first: TaskSample) -> Iterator[TaskSample]:
        row = int(self._rows[index])
        name = self.data.names[row]
        for group in self.objective.groups(first.shown):
            try:
                count = {modality: self.data.alternatives(name, modality) for modality in group}
            except BadFile as bad:
                self.data.skip(name, bad)
                continue
            for number in range(1, max(count.values(), default=1)):
                try:
                    further = {
                        one: self._shown(one, self.store.load(row, one, number)) for one in group if count[one] > 1
                    }
                except BadFile as bad:
                    self.data.skip(name, bad)
                    continue
                shown = {one: further.get(one, first.shown[one]) for one in group}
                yield TaskSample(shown, self.objective.alternative(shown))

    def _shown(self, name: str, content: np.ndarray) -> Shown:
        if self.data.modalities[name].spec.continuous:
            return Shown(np.arange(len(content)), np.full(len(content), -1, np.int64), content)
        tokenizer = self.store.tokenizers[name]
        if isinstance(tokenizer, TextTokenizer):
            content = np.append(content, tokenizer.end_id)[: self.data.modalities[name].spec.layout.num_tokens]
        return Shown.tokens(content)

    def _mixed(self, a: TaskSample, b: TaskSample, position: int) -> TaskSample:
        assert self.mixing is not None
        assert isinstance(self.objective, Classification)
        drawn = self.mixing.draw(np.random.default_rng([self.seed, _PAIR, position // 2]))
        if a.shown.keys() != b.shown.keys():  # one of the samples lacks an input
            return replace(a, target=self.objective.mixed(a.target, a.target, 1.0))
        return TaskSample(
            self.mixing.mixed(a.shown, b.shown, drawn), self.objective.mixed(a.target, b.target, drawn.share)
        )

    def _drop_inputs(self, sample: TaskSample, position: int) -> TaskSample:
        """The sample with some inputs dropped, but never all that are encoded together."""
        if not self.dropout or len(sample.shown) < 2:
            return sample
        rng, kept = np.random.default_rng([self.seed, _PAIR + 1, position]), list[str]()
        for names in self.objective.groups(sample.shown):
            some = [name for name in names if rng.random() >= self.dropout]
            kept += some or ([names[int(rng.integers(len(names)))]] if names else [])
        return replace(sample, shown={name: sample.shown[name] for name in kept})

"""Prepares samples for tokenization: reads and decodes each file once, to arrays or directly to ids.

Worker processes do so ahead of time. If tokenizers compute on the CPU, the workers also encode, to use all cores; a GPU
is fed by the single process that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.sample import RawSample
from fourm_engine.data.tokens.shards import digest
from fourm_engine.data.views import SampleViews, ViewDrawer, view_of
from fourm_engine.data.workers import ahead, batched
from fourm_plugins.calls import encode
from fourm_plugins.tokenizer import Tokenizer
from fourm_plugins.view import View

#: Number of samples per task of a worker, which works two tasks ahead: if it encodes, and if it returns arrays, which
#: take memory.
ENCODED, HANDED_OVER = 32, 8
#: Number of arrays passed to a tokenizer at once.
ENCODE_BATCH = 64


@dataclass(frozen=True)
class Task:
    """One sample to prepare. `modalities`: those to encode. `views`: the recorded ones, or None to draw them."""

    shard: int
    name: str
    modalities: tuple[str, ...]
    views: list[SampleViews] | None = None


@dataclass
class Prepared:
    """The result of a task. A modality whose file, or any view of it, cannot be used is only in `bad`."""

    task: Task
    views: list[SampleViews]
    #: Modality -> its array in each view; None for one that equals view 0. Or ids of each view.
    arrays: dict[str, list[np.ndarray | str | None]] = field(default_factory=dict)
    ids: dict[str, list[np.ndarray]] = field(default_factory=dict)
    #: Modality -> digest of the bytes of its files.
    contents: dict[str, int] = field(default_factory=dict)
    bad: list[BadFile] = field(default_factory=list)


def content_digest(files: Mapping[str, bytes]) -> int:
    return digest(*(part for extension, content in sorted(files.items()) for part in (extension, content)))


class Encoder:
    """Encodes arrays of one modality to ids, in batches."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        #: Sample -> digest of its files' bytes.
        self.contents: dict[str, int] = {}
        self._waiting: list[tuple[str, int, np.ndarray | str]] = []
        self._rows: dict[str, list[np.ndarray | None]] = {}

    def add(self, name: str, arrays: Sequence[np.ndarray | str | None], content: int) -> None:
        """arrays: one per view; None for a view that shows the same as view 0."""
        self.contents[name], self._rows[name] = content, [None] * len(arrays)
        self._waiting += [(name, view, array) for view, array in enumerate(arrays) if array is not None]
        while len(self._waiting) >= ENCODE_BATCH:
            self._encode()

    def take(self, name: str, ids: list[np.ndarray], content: int) -> None:
        """ids: for each view, of a sample that another process has encoded."""
        self.contents[name], self._rows[name] = content, [*ids]

    def _encode(self) -> None:
        batch, self._waiting = self._waiting[:ENCODE_BATCH], self._waiting[ENCODE_BATCH:]
        for (name, view, _), ids in zip(batch, encode(self.tokenizer, [array for *_, array in batch]), strict=True):
            self._rows[name][view] = ids

    def finish(self) -> dict[str, list[np.ndarray]]:
        """Sample -> ids of each view."""
        while self._waiting:
            self._encode()
        rows = {}
        for name, (first, *others) in self._rows.items():
            assert first is not None
            rows[name] = [first, *(first if ids is None else ids for ids in others)]
        return rows


class Preparer:
    """`preparer[tasks]` are the `Prepared` samples of the tasks; see `ahead`.

    tokenizers: of the modalities to encode; without them, `Prepared` has arrays."""

    def __init__(
        self, data: AlignedData, drawer: ViewDrawer, views: int, tokenizers: Mapping[str, Tokenizer] | None = None
    ) -> None:
        self.data, self.drawer, self.views, self.tokenizers = data, drawer, views, dict(tokenizers or {})

    def __getitem__(self, tasks: Sequence[Task]) -> list[Prepared]:
        encoders = {modality: Encoder(tokenizer) for modality, tokenizer in self.tokenizers.items()}
        samples = []
        for task in tasks:
            prepared = self._prepare(task)
            for modality in list(prepared.arrays) if encoders else ():
                encoders[modality].add(task.name, prepared.arrays.pop(modality), prepared.contents[modality])
            samples.append(prepared)
        rows = {modality: encoder.finish() for modality, encoder in encoders.items()}
        for prepared in samples if encoders else ():
            prepared.ids = {modality: rows[modality][prepared.task.name] for modality in prepared.contents}
        return samples

    def _prepare(self, task: Task) -> Prepared:
        sample = RawSample(self.data, task.name)
        views = task.views
        if views is None:
            aspects = self.drawer.aspects(self.data, task.name, sample.value)
            views = [self.drawer.draw(task.name, number, aspects) for number in range(self.views)]
        prepared = Prepared(task, views)
        for modality in task.modalities:
            try:
                arrays = self._arrays(sample, modality, views)
            except BadFile as bad:
                prepared.bad.append(bad)
            else:
                prepared.arrays[modality] = arrays
                prepared.contents[modality] = content_digest(sample.files(modality))
        return prepared

    def _arrays(self, sample: RawSample, modality: str, views: list[SampleViews]) -> list[np.ndarray | str | None]:
        """One view after the other; views that show the same as an earlier one are not encoded again."""
        plugin = self.data.modalities[modality]
        arrays: list[np.ndarray | str | None] = []
        seen: View | None = None
        for number in range(self.views):
            view = view_of(plugin.spec, views[number], number)
            if view.variant and not plugin.uses_variant:
                view = _first_variant(view)
            if arrays and view == seen:
                arrays.append(None)
                continue
            array = sample.array(modality, view)
            if not arrays:
                seen = view
            arrays.append(None if arrays and _same(array, arrays[0]) else array)
        return arrays


def prepare(preparer: Preparer, tasks: Iterable[Task], *, workers: int) -> Iterator[Prepared]:
    """The samples of `tasks`, in order, prepared ahead in `workers` processes, or in this one if there are none."""
    size = ENCODED if preparer.tokenizers else HANDED_OVER
    for samples in ahead(preparer, batched(tasks, size if workers else 1), workers=workers):
        yield from samples


@lru_cache(maxsize=1024)
def _first_variant(view: View) -> View:
    return replace(view, variant=0)


def _same(a: np.ndarray | str, b: np.ndarray | str | None) -> bool:
    return (
        a == b
        if isinstance(a, str) or not isinstance(b, np.ndarray)
        else np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    )

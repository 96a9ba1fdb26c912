"""Reads every sample of a part of a data set, in worker processes: statistics of the files, and which are unusable.

In: the sources of the modalities and the names of samples. Out: `Survey`: 17 bytes per file (`COLUMNS`), statistics per
modality, and the unusable files by name. Samples are read in chunks of `CHUNK`, which are merged in order, so that the
result depends on neither the number of workers nor their speed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fourm_engine.data.checks.findings import Listed
from fourm_engine.data.checks.statistics import Statistics
from fourm_engine.data.raw.aspect import Vote, array_aspect
from fourm_engine.data.raw.source import Source
from fourm_engine.data.tokens.prepare import content_digest
from fourm_engine.data.workers import AHEAD, WorkerEnded, ahead
from fourm_plugins.arrays import check_array
from fourm_plugins.errors import SampleError, one_line
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading
from fourm_plugins.spec import Text
from fourm_plugins.tokenizer import Tokenizer
from fourm_plugins.view import View

#: Number of samples that a worker reads at a time.
CHUNK = 32
#: Number of alternatives of a text that are read.
MAX_TEXTS = 16
MAX_REASON = 300
ABSENT, USABLE, CONSTANT, MISALIGNED, UNUSABLE = range(5)
#: For each file of a source: a digest of its bytes, its size in bytes and in pixels (0 without any), its state.
COLUMNS = np.dtype([("digest", "u8"), ("bytes", "u4"), ("width", "u2"), ("height", "u2"), ("state", "u1")])


@dataclass
class Survey:
    """The samples that were read. `rows`: source -> (samples,) of `COLUMNS`."""

    rows: dict[str, np.ndarray]
    statistics: dict[str, Statistics]
    #: {"sample", "modality", "file", "reason"} of each.
    damaged: Listed = field(default_factory=Listed)
    #: The same for files whose shape differs from that of the sample's other files.
    misaligned: Listed = field(default_factory=Listed)
    remarks: Listed = field(default_factory=Listed)

    def merge(self, start: int, chunk: Survey) -> None:
        """Add a chunk, whose first sample is row `start`."""
        for key, rows in chunk.rows.items():
            self.rows[key][start : start + len(rows)] = rows
        for name, statistics in chunk.statistics.items():
            self.statistics[name].merge(statistics)
        self.damaged.merge(chunk.damaged)
        self.misaligned.merge(chunk.misaligned)
        self.remarks.merge(chunk.remarks)


class Reader:
    """Reads samples. Picklable.

    Args:
        sources: key -> source.
        readers: key -> the modalities that read it.
        tokenizers: modality -> fitted tokenizer, of sequences."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        readers: Mapping[str, Sequence[str]],
        modalities: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
    ) -> None:
        self.sources, self.readers = dict(sources), dict(readers)
        self.modalities, self.tokenizers = dict(modalities), dict(tokenizers)

    def empty(self, samples: int) -> Survey:
        names = [name for key in self.sources for name in self.readers[key]]
        statistics = {name: Statistics(self.modalities[name], self.tokenizers.get(name)) for name in names}
        return Survey({key: np.zeros(samples, COLUMNS) for key in self.sources}, statistics)

    def __getitem__(self, task: tuple[Sequence[str], Mapping[str, np.ndarray]]) -> Survey:
        """task: names, and source -> bool (names,), which of the names it has."""
        (names, present), survey = task, self.empty(len(task[0]))
        with _remarks(survey.remarks):
            for row, name in enumerate(names):
                self._sample(survey, row, name, [key for key in self.sources if present[key][row]])
        return survey

    def _sample(self, survey: Survey, row: int, name: str, keys: Sequence[str]) -> None:
        values: dict[str, Any] = {}
        for key in keys:
            rows = survey.rows[key]
            rows["state"][row] = UNUSABLE
            try:
                files = self.sources[key].files(name)
            except SampleError as error:
                self._note(survey.damaged, key, ", ".join(self.readers[key]), name, _reason(error))
                continue
            rows["digest"][row] = content_digest(files)
            rows["bytes"][row] = min(sum(map(len, files.values())), (1 << 32) - 1)
            refused: dict[str, list[str]] = {}  # reason -> modalities
            for modality in self.readers[key]:
                try:
                    with reading(lambda key=key: self.sources[key].where(name)):  # type: ignore[misc]
                        values[modality] = self.modalities[modality].read(files)
                except Exception as error:
                    refused.setdefault(_reason(error), []).append(modality)
                    continue
                if (size := _size(self.modalities[modality], values[modality])) is not None:
                    rows["width"][row], rows["height"][row] = np.minimum(size, (1 << 16) - 1)
            for reason, modalities in refused.items():
                self._note(survey.damaged, key, ", ".join(modalities), name, reason)
        shapes = self._shapes(survey, name, values)
        for key in keys:
            states = [
                self._array(survey, key, modality, name, values[modality], shapes)
                for modality in self.readers[key]
                if modality in values
            ]
            if states and UNUSABLE not in states:
                survey.rows[key]["state"][row] = max(states)

    def _array(
        self, survey: Survey, key: str, name: str, sample: str, value: Any, shapes: Mapping[str, tuple[float, set[str]]]
    ) -> int:
        """Add a value, raw and as the model sees it; returns its state."""
        modality, spec = self.modalities[name], self.modalities[name].spec
        statistics = survey.statistics[name]
        statistics.add_value(value)
        shape, odd = shapes.get(spec.alignment or "", (None, set[str]()))
        if key in odd:
            return MISALIGNED
        target = array_aspect(spec) or 1.0
        try:
            view = View.centre(source_aspect=shape or modality.aspect(value) or target, target_aspect=target)
            if spec.alignment is None:
                view = View()
            arrays = list[np.ndarray | str]()
            for variant in range(MAX_TEXTS if isinstance(spec.array, Text) else 1):
                seen = View(view.top, view.left, view.height, view.width, False, variant)
                array = modality.normalise(modality.augment(value, seen))
                check_array(spec, array)
                if any(isinstance(array, str) and array == other for other in arrays):
                    break  # alternatives begin again
                arrays.append(array)
            constant = statistics.add(sample, arrays)
        except Exception as error:
            self._note(survey.damaged, key, name, sample, _reason(error))
            return UNUSABLE
        return CONSTANT if constant else USABLE

    def _shapes(self, survey: Survey, sample: str, values: Mapping[str, Any]) -> dict[str, tuple[float, set[str]]]:
        """Alignment group -> width / height of most of its sources, and the sources that differ."""
        aspects: dict[str, dict[str, float]] = {}
        for key, modalities in self.readers.items():
            for name in modalities:
                group = self.modalities[name].spec.alignment
                aspect = self.modalities[name].aspect(values[name]) if name in values else None
                if group is not None and aspect is not None and array_aspect(self.modalities[name].spec):
                    aspects.setdefault(group, {}).setdefault(key, aspect)
        shapes = {}
        for group, by_source in aspects.items():
            vote = Vote()
            for key, aspect in by_source.items():
                vote.add(key, aspect, len(self.readers[key]))
            agreed, *others = vote.ranked()
            shape, agree, odd = agreed.aspect, agreed.files, {key for other in others for key in other.files}
            shapes[group] = shape, odd
            for key in sorted(odd):
                with_it = f"{shape:.3f} in {' and '.join(agree)}"
                one = "; one of the two is wrong" if len(agree) == 1 else ""
                reason = f"width / height is {by_source[key]:.3f}, but {with_it}{one}"
                self._note(survey.misaligned, key, key, sample, reason)
        return shapes

    def _note(self, listed: Listed, key: str, modality: str, sample: str, reason: str) -> None:
        where = self.sources[key].where(sample)
        listed.add({"sample": sample, "modality": modality, "file": where, "reason": reason})


def _reason(error: Exception) -> str:
    reason = one_line(error)
    if not isinstance(error, SampleError):
        reason = f"the plugin failed with {type(error).__name__}: {reason}"
    return reason[:MAX_REASON]


def _size(modality: Modality, value: Any) -> tuple[int, int] | None:
    """(width, height) of a value whose rows and columns span the picture."""
    if isinstance(value, np.ndarray) and value.ndim >= 2 and modality.aspect(value) is not None:
        return value.shape[1], value.shape[0]
    return None


class _Collect(logging.Handler):
    def __init__(self, listed: Listed) -> None:
        super().__init__(logging.WARNING)
        self.listed = listed

    def emit(self, record: logging.LogRecord) -> None:
        self.listed.add(record.getMessage())


@contextmanager
def _remarks(listed: Listed) -> Iterator[None]:
    """Collects plugins' notes on files instead of logging them."""
    log, handler = logging.getLogger("fourm_plugins.notes"), _Collect(listed)
    propagate = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


def survey(
    reader: Reader,
    names: Sequence[str],
    present: Mapping[str, np.ndarray],
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read `names`, in this process or in `workers` others, each of which works a few chunks ahead.

    Raises ValueError if a worker dies, naming the samples that it may have been reading."""
    whole = reader.empty(len(names))
    starts = range(0, len(names), CHUNK)

    def task(start: int) -> tuple[Sequence[str], dict[str, np.ndarray]]:
        rows = slice(start, start + CHUNK)
        return names[rows], {key: column[rows] for key, column in present.items()}

    chunks = ahead(reader, map(task, starts), workers=workers, setting="--workers")
    for start in starts:
        try:
            chunk = next(chunks)
        except WorkerEnded as error:
            last = min(start + CHUNK * AHEAD * workers, len(names)) - 1
            raise ValueError(f"{error}; it read one of the samples {names[start]} to {names[last]}") from None
        whole.merge(start, chunk)
        progress(min(start + CHUNK, len(names)), len(names))
    return whole

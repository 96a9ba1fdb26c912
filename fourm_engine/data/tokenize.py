"""Tokenize a data set once: raw files through plugins and tokenizers into token shards.

In: a root of raw data, modalities, fitted tokenizers. Out: shards as in `fourm_engine.data.tokens`, and a report. Shard
i holds the i-th run of `shard_size` sample names; a finished shard is left alone, so that a stopped run goes on where
it was.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fourm_engine.data.aligned import AlignedData, BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.tokens import (
    VIEWS_FOLDER,
    RecordedViews,
    TokenShardWriter,
    read_metadata,
    shard_path,
    shard_paths,
    write_views,
)
from fourm_engine.data.views import SampleViews, ViewDrawer, view_of
from fourm_engine.files import remove_leftovers
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer
from fourm_plugins.view import View

log = logging.getLogger(__name__)
#: Arrays that a tokenizer gets at a time.
ENCODE_BATCH = 64


@dataclass
class TokenizeReport:
    """What the shards of this rank hold, those of earlier runs included."""

    samples: int = 0
    #: Modality -> samples with tokens.
    counts: dict[str, int] = field(default_factory=dict)
    #: "where: modality: reason" of every file left out.
    bad: list[str] = field(default_factory=list)
    #: Modality -> files left out.
    errors: dict[str, int] = field(default_factory=dict)
    #: Shards (one modality each) written now, and found finished.
    written: int = 0
    finished: int = 0
    #: Samples (one modality each) encoded now, and the seconds it took.
    encoded: int = 0
    seconds: float = 0.0

    @property
    def samples_per_second(self) -> float:
        """Samples encoded a second, counting each modality."""
        return self.encoded / self.seconds if self.seconds else 0.0

    def add(self, modality: str, metadata: Mapping[str, str]) -> None:
        bad = json.loads(metadata["bad"])
        self.counts[modality] = self.counts.get(modality, 0) + len(json.loads(metadata["names"]))
        self.errors[modality] = self.errors.get(modality, 0) + len(bad)
        self.bad += [f"{where}: {modality}: {reason}" for where, reason in bad]


def tokenize_split(
    root: Path,
    out: Path,
    modalities: Mapping[str, Modality],
    tokenizers: Mapping[str, Tokenizer],
    config: DataConfig,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    training: bool = True,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> TokenizeReport:
    """Write the tokens of every modality with a token space below `out`.

    Args:
        modalities: all active ones; those that are continuous only take part in choosing the crops.
        tokenizers: modality -> its fitted tokenizer.
        progress: called with (samples done, samples in all), each modality counted, of what this rank has left to do.
        training: False for validation: one view, the centre crop.
        rank, world: this process makes the shards i with i % world == rank.

    Raises:
        ValueError: no data; no tokenizer; shards in `out` of another tokenizer, other views or other samples' number.
        BadFile: an unusable file, where `config.on_error` is "raise".
    """
    began = time.perf_counter()
    data = AlignedData(root, modalities, split, on_error=config.on_error, max_bytes=config.max_file_mb << 20)
    drawer = ViewDrawer.from_config(modalities, config, training=training, seed=seed)
    views = config.views if training else 1
    token_modalities = [name for name in sorted(modalities) if not modalities[name].spec.continuous]
    if missing := [name for name in token_modalities if name not in tokenizers]:
        raise ValueError(f"no tokenizer for {', '.join(missing)}; run `fourm tokenizer fit` first")
    present = [name for name in token_modalities if data.counts[name]]
    data.check_usable(present)
    writers = {
        name: TokenShardWriter(out, modalities[name].spec, tokenizers[name].fingerprint, views) for name in present
    }
    chunks = [data.names[i : i + config.shard_size] for i in range(0, len(data.names), config.shard_size)]
    _check_number(Path(out), present, len(chunks))

    report = TokenizeReport()
    mine = range(rank, len(chunks), world)
    own = {shard_path(Path(folder), index).as_posix() for folder in (VIEWS_FOLDER, *present) for index in mine}
    remove_leftovers(Path(out), own.__contains__)
    # Shards that exist most likely are finished; those made again, since their data has changed, are rare.
    total, done = sum(len(chunks[i]) for m in present for i in mine if not shard_path(Path(out) / m, i).is_file()), 0
    for index in mine:
        names = chunks[index]
        seen, digest = _views_of_shard(Path(out), index, names, views, data, drawer)
        report.samples += len(names)
        for modality in present:
            metadata = writers[modality].finished(index, digest)
            if metadata is None:
                if shard_path(Path(out) / modality, index).is_file():
                    total += len(names)
                encoder = _ShardEncoder(data, modality, tokenizers[modality], seen, views)
                for name in names:
                    encoder.add(name)
                    done += 1
                    if progress:
                        progress(done, total)
                metadata = writers[modality].write(index, encoder.finish(), digest, encoder.bad)
                report.written += 1
                report.encoded += len(json.loads(metadata["names"]))
            else:
                report.finished += 1
            report.add(modality, metadata)
    report.seconds = time.perf_counter() - began
    return report


def _check_number(out: Path, modalities: list[str], shards: int) -> None:
    for folder in (VIEWS_FOLDER, *modalities):
        for path in shard_paths(out / folder):
            if int(path.stem.rpartition("-")[2]) >= shards:
                raise ValueError(f"{path}: the data now makes {shards} shards only; remove {out} to tokenize again")


def _views_of_shard(
    out: Path, index: int, names: list[str], number: int, data: AlignedData, drawer: ViewDrawer
) -> tuple[Callable[[str, int], SampleViews], str]:
    """The recorded views of a shard, recorded now if they were not, and their digest.

    Raises ValueError where they were recorded with other settings. Other names: the data has changed, and the shard is
    made again."""
    path = shard_path(out / VIEWS_FOLDER, index)
    metadata = read_metadata(path) if path.is_file() else {}
    if metadata:
        found = (json.loads(metadata["settings"]), int(metadata["views"]))
        if found != (drawer.settings(), number):
            raise ValueError(
                f"{path}: recorded with {found[0]}, {found[1]} views, but the config says {drawer.settings()}, "
                f"{number} views; restore data.augment, crop_scale, flip, views and seed, or remove {out} and tokenize"
            )
    known = set(json.loads(metadata["groups"])) if metadata else set()
    if not metadata or json.loads(metadata["names"]) != names or not set(drawer.groups) <= known:
        if metadata:
            log.warning("%s: its samples or alignment groups have changed, its shards are made again", path)
        rows = []
        for name in names:
            aspects = drawer.aspects(data, name)
            rows.append([drawer.draw(name, v, aspects) for v in range(number)])
        write_views(out, index, names, rows, drawer.settings())
    recorded = RecordedViews(out, index)
    return recorded.get, recorded.digests[0]


class _ShardEncoder:
    """Encodes one modality of one shard in batches. A sample is left out if any of its views is unusable."""

    def __init__(
        self,
        data: AlignedData,
        modality: str,
        tokenizer: Tokenizer,
        seen: Callable[[str, int], SampleViews],
        views: int,
    ) -> None:
        self.data, self.modality, self.tokenizer, self.seen, self.views = data, modality, tokenizer, seen, views
        self.bad: list[tuple[str, str]] = []
        self._waiting: list[tuple[str, np.ndarray | str]] = []
        self._rows: dict[str, list[np.ndarray]] = {}
        self._again: dict[str, list[bool]] = {}  # sample -> for each view after the first, whether it shows the same

    def add(self, name: str) -> None:
        if self.modality not in self.data.has(name):
            return
        try:
            value = self.data.value(name, self.modality)
            arrays = [
                self.data.normalise(
                    name, self.modality, self.data.augment(name, self.modality, value, self._view(name, number))
                )
                for number in range(self.views)
            ]
        except BadFile as bad:
            self.data.skip(name, bad)
            self.bad.append((bad.where, bad.reason))
            return
        # Views that show the same (centre crops, which differ in captions alone) are encoded once.
        self._again[name] = again = [_same(array, arrays[0]) for array in arrays[1:]]
        self._waiting.append((name, arrays[0]))
        self._waiting += [(name, array) for array, same in zip(arrays[1:], again) if not same]
        if len(self._waiting) >= ENCODE_BATCH:
            self._encode()

    def _view(self, name: str, number: int) -> View:
        return view_of(self.data.modalities[self.modality].spec, self.seen(name, number), number)

    def _encode(self) -> None:
        for start in range(0, len(self._waiting), ENCODE_BATCH):
            batch = self._waiting[start : start + ENCODE_BATCH]
            for (name, _), ids in zip(batch, self.tokenizer.encode([array for _, array in batch]), strict=True):
                self._rows.setdefault(name, []).append(ids)
        self._waiting = []

    def finish(self) -> dict[str, list[np.ndarray]]:
        """Sample -> ids of each view."""
        self._encode()
        complete = {}
        for name, rows in self._rows.items():
            fresh = iter(rows[1:])
            complete[name] = [rows[0], *(rows[0] if again else next(fresh) for again in self._again[name])]
        return complete


def _same(a: np.ndarray | str, b: np.ndarray | str) -> bool:
    return a == b if isinstance(a, str) or isinstance(b, str) else np.array_equal(a, b, equal_nan=a.dtype.kind == "f")

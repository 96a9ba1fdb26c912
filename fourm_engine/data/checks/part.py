"""A part of a data set (train, val, or a split of a folder): its samples and their files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.checks.files import Survey
from fourm_engine.data.checks.findings import Finding, Kind, Level, Listed
from fourm_engine.data.checks.sources import ReadableSources
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.splits import samples_of
from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class Wanted:
    """A part of a data set: all samples of `root`, or those that a split lists. `held_out`: samples that it leaves to
    `held_by`, another part."""

    name: str
    root: Path | PluginRoot
    listed: frozenset[str] | None = None
    held_out: frozenset[str] = frozenset()
    held_by: str = ""
    split: str | None = None
    #: The tars in the root to read; None: all.
    shards: tuple[str, ...] | None = None
    #: Selects samples by name, if no list does.
    choose: Callable[[Collection[str]], Collection[str]] | None = None
    #: The modalities with sources in this part only; None: all.
    modalities: Mapping[str, Modality] | None = None


@dataclass
class Part:
    """A part that was read. `names` are all its samples, `read` the rows of those that were read."""

    wanted: Wanted
    opened: ReadableSources
    names: list[str]
    #: Source -> bool (names,), which samples have it.
    present: dict[str, np.ndarray]
    read: np.ndarray
    survey: Survey

    @property
    def name(self) -> str:
        return self.wanted.name

    @property
    def names_read(self) -> list[str]:
        return [self.names[row] for row in self.read]

    @property
    def readers(self) -> dict[str, list[str]]:
        """Source -> its modalities, for the existing sources."""
        return {key: self.opened.readers[key] for key in self.opened.sources}

    def sets(self) -> list[tuple[list[str], int]]:
        """(sources of a sample, number of samples with exactly these), the most frequent first."""
        keys = list(self.present)
        code = sum((self.present[key].astype(np.int64) << k for k, key in enumerate(keys)), np.zeros(len(self.names)))
        codes, counts = np.unique(np.asarray(code, np.int64), return_counts=True)
        sets = ([key for k, key in enumerate(keys) if code >> k & 1] for code in codes.tolist())
        return sorted(zip(sets, counts.tolist()), key=lambda one: (-one[1], one[0]))

    def both(self) -> dict[str, dict[str, int]]:
        """Number of samples that have both sources of a pair; the diagonal counts those that have one."""
        return {a: {b: int((self.present[a] & self.present[b]).sum()) for b in self.present} for a in self.present}

    def sizes(self, key: str) -> dict[str, Any]:
        """Bytes and, if they have rows and columns, pixels of the files that were read."""
        rows = self.survey.rows[key]
        rows = rows[rows["digest"] > 0]
        sizes: dict[str, Any] = {"files": len(rows)}
        if len(rows):
            number = rows["bytes"].astype(np.int64)
            sizes["bytes"] = _spread(number) | {"total": int(number.sum())}
            rows = rows[rows["width"] > 0]
        if len(rows):
            sizes["width"], sizes["height"] = (_spread(rows[side]) for side in ("width", "height"))
            pairs, counts = np.unique(rows[["width", "height"]], return_counts=True)
            order = np.argsort(-counts, kind="stable")
            sizes["sizes"] = [
                {"width": int(pairs[k]["width"]), "height": int(pairs[k]["height"]), "files": int(counts[k])}
                for k in order[:100]
            ]
            sizes["distinct_sizes"] = len(pairs)
        return sizes

    def finding(
        self,
        kind: Kind,
        level: Level,
        message: str,
        remedy: str = "",
        *,
        source: str = "",
        listed: Listed | None = None,
    ) -> Finding:
        return Finding(kind, level, f"{self.name}: {message}", remedy, self.name, source, listed or Listed())

    def to_json(self) -> dict[str, Any]:
        modalities = {}
        for key, names in self.readers.items():
            for name in names:
                count = int(self.present[key].sum())
                about = {"source": key, "samples": count, "lacking": len(self.names) - count}
                modalities[name] = about | self.sizes(key) | self.survey.statistics[name].to_json()
        return {
            "part": self.name,
            "folder": str(self.wanted.root),
            "split": self.wanted.split,
            "samples": len(self.names),
            "read": len(self.read),
            "modalities": modalities,
            "both": self.both(),
            "sets": [{"sources": keys, "samples": n} for keys, n in self.sets()],
        }


def _spread(numbers: np.ndarray) -> dict[str, int]:
    return {"min": int(numbers.min()), "median": int(np.median(numbers)), "max": int(numbers.max())}


def part_of(wanted: Wanted, opened: ReadableSources, findings: list[Finding]) -> Part:
    """The part, based on names alone. Adds to `findings` listed samples without a file, and samples in two parts."""
    everything = frozenset().union(*(source.names for source in opened.sources.values()))
    names = everything if wanted.choose is None else frozenset(wanted.choose(everything))
    if wanted.listed is not None:
        meant = samples_of(wanted.listed, everything)
        names = frozenset(meant.values())
        if missing := sorted(wanted.listed - meant.keys()):
            whole = isinstance(wanted.root, PluginRoot)  # whose splits are not lists, and contain rows without files
            what = f"{len(missing):,} of {len(wanted.listed):,} samples that split {wanted.split} lists have no file"
            said = f"{shown(wanted.root)}: {what}, such as {shown(missing[0])}"
            remedy = "they are not used" if whole else "add their files, or take them out of splits.json"
            level: Level = "note" if whole else "problem"
            findings.append(Finding("missing", level, said, remedy, wanted.name, listed=Listed(missing)))
    if overlap := sorted(names.intersection(samples_of(wanted.held_out, names).values())):
        all_of_them = len(overlap) == len(names)
        what = f"{len(overlap):,} of {len(names):,} samples of {wanted.name}, such as {shown(overlap[0])}"
        said = f"{shown(wanted.root)}: {what}, are in {wanted.held_by} too"
        remedy = "take them out of one of the two; training leaves held-out samples out, unless nothing is left then"
        findings.append(Finding("leak", "problem", said, remedy, wanted.name, listed=Listed(overlap)))
        names = names if all_of_them else names - frozenset(overlap)
    ordered = sorted(names)
    rows = {name: row for row, name in enumerate(ordered)}
    present = {}
    for key, source in opened.sources.items():
        present[key] = np.zeros(len(ordered), bool)
        present[key][[rows[name] for name in source.names if name in rows]] = True
    return Part(wanted, opened, ordered, present, np.arange(len(ordered)), Survey({}, {}))

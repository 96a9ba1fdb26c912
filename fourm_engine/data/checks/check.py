"""What a data set holds and what is wrong with it: counts, sizes, statistics, and findings.

In: the parts of a data set (train and val, or the splits of a folder) and the modalities. Out: `DataCheck`, whose
`to_json` is all of it. Memory: names, and 17 bytes a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.checks.equal_files import equal_files
from fourm_engine.data.checks.files import Reader, Survey, survey
from fourm_engine.data.checks.findings import Finding, Listed
from fourm_engine.data.checks.opened import Opened, open_data
from fourm_engine.data.checks.statistics import Statistics
from fourm_engine.data.raw.elsewhere import Elsewhere
from fourm_engine.data.raw.folder import MAX_FILE_BYTES
from fourm_engine.data.raw.names import shown
from fourm_engine.data.splits import samples_of
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

FORMAT = 1


@dataclass(frozen=True)
class Wanted:
    """A part of a data set: all samples of `root`, or those that a split lists. `held_out`: those that it leaves to
    `held_by`, another part."""

    name: str
    root: Path | Elsewhere
    listed: frozenset[str] | None = None
    held_out: frozenset[str] = frozenset()
    held_by: str = ""
    split: str | None = None
    #: Of the tars in the root, those that are read; None: all.
    shards: tuple[str, ...] | None = None
    #: Chooses its samples by their names, where no list does.
    choose: Callable[[Collection[str]], Collection[str]] | None = None
    #: Those that read it, where their sources are its own; None: as all.
    modalities: Mapping[str, Modality] | None = None


@dataclass
class Part:
    """A part that was read. `names` are all its samples, `read` the rows of those that were read."""

    wanted: Wanted
    opened: Opened
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
        """Source -> its modalities, of the sources that are there."""
        return {key: self.opened.readers[key] for key in self.opened.sources}

    def sets(self) -> list[tuple[list[str], int]]:
        """(sources that a sample has, samples that have just these), the most frequent first."""
        keys = list(self.present)
        code = sum((self.present[key].astype(np.int64) << k for k, key in enumerate(keys)), np.zeros(len(self.names)))
        codes, counts = np.unique(np.asarray(code, np.int64), return_counts=True)
        found = [
            ([key for k, key in enumerate(keys) if code >> k & 1], int(n)) for code, n in zip(codes.tolist(), counts)
        ]
        return sorted(found, key=lambda one: (-one[1], one[0]))

    def both(self) -> dict[str, dict[str, int]]:
        """Samples that have both sources of a pair; of a source with itself, those that have it."""
        return {a: {b: int((self.present[a] & self.present[b]).sum()) for b in self.present} for a in self.present}

    def sizes(self, key: str) -> dict[str, Any]:
        """Bytes and, of what has rows and columns, pixels of the files that were read."""
        rows = self.survey.rows[key]
        rows = rows[rows["digest"] > 0]
        found: dict[str, Any] = {"files": len(rows)}
        if len(rows):
            number = rows["bytes"].astype(np.int64)
            found["bytes"] = _spread(number) | {"total": int(number.sum())}
            rows = rows[rows["width"] > 0]
        if len(rows):
            found["width"], found["height"] = (_spread(rows[side]) for side in ("width", "height"))
            pairs, counts = np.unique(rows[["width", "height"]], return_counts=True)
            order = np.argsort(-counts, kind="stable")
            found["sizes"] = [
                {"width": int(pairs[k]["width"]), "height": int(pairs[k]["height"]), "files": int(counts[k])}
                for k in order[:100]
            ]
            found["distinct_sizes"] = len(pairs)
        return found

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


@dataclass
class DataCheck:
    """All that was found. `tokens`: what token shards hold, an entry each part and modality."""

    parts: list[Part]
    modalities: Mapping[str, Modality]
    findings: list[Finding] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0

    @property
    def complete(self) -> bool:
        """Whether every sample was read."""
        return all(len(part.read) == len(part.names) for part in self.parts)

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "problem"]

    @property
    def notes(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "note"]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "ok": not self.problems,
            "complete": self.complete,
            "seed": self.seed,
            "modalities": {
                name: {"source": m.spec.source, "extensions": list(m.spec.extensions), "array": m.spec.array.kind}
                for name, m in self.modalities.items()
            },
            "parts": [part.to_json() for part in self.parts],
            "tokens": self.tokens,
            "findings": [finding.to_json() for finding in self.findings],
        }


def check_data(
    wanted: Sequence[Wanted],
    modalities: Mapping[str, Modality],
    *,
    tokenizers: Mapping[str, Tokenizer] | None = None,
    samples: int | None = None,
    seed: int = 0,
    workers: int = 0,
    max_bytes: int = MAX_FILE_BYTES,
    progress: Callable[[str], Callable[[int, int], None]] = lambda part: lambda done, total: None,
) -> DataCheck:
    """Read the samples of all parts, or `samples` of each, drawn by `seed`.

    Args:
        tokenizers: modality -> fitted tokenizer, of sequences, for their lengths in tokens.
        progress: part -> what is told (done, in all).

    Raises ValueError where there is no data at all."""
    check, roots = DataCheck([], modalities, seed=seed), dict[tuple, Opened]()
    for one in wanted:
        readers = one.modalities or modalities
        root = _resolved(one.root), one.shards, frozenset((name, m.spec.source) for name, m in readers.items())
        if root not in roots:
            roots[root] = open_data(one.root, readers, shards=one.shards, max_bytes=max_bytes)
            check.findings += roots[root].findings
        part = _part(one, roots[root], check.findings)
        if samples is not None and samples < len(part.names):
            part.read = np.sort(np.random.default_rng(seed).choice(len(part.names), samples, replace=False))
        reader = Reader(part.opened.sources, part.readers, readers, tokenizers or {})
        present = {key: column[part.read] for key, column in part.present.items()}
        part.survey = survey(reader, part.names_read, present, workers=workers, progress=progress(one.name))
        check.parts.append(part)
        check.findings += _of_part(part, first=part is check.parts[0])
    if not any(part.names for part in check.parts) and not check.problems:
        folders = ", ".join(f"{source}/" for source in sorted({m.spec.source for m in modalities.values()}))
        raise ValueError(f"{' and '.join(shown(one.root) for one in wanted)}: no data; looked for {folders}")
    for opened in roots.values():
        check.findings += _unlisted(opened.root, opened, [part for part in check.parts if part.opened is opened])
    pictures = {key for part in check.parts for key in part.readers if _picture(part.opened, key, modalities)}
    check.findings += equal_files(
        [(part.name, _resolved(part.wanted.root), part.names_read, part.survey.rows) for part in check.parts], pictures
    )
    return check


def _resolved(root: Path | Elsewhere) -> Path | Elsewhere:
    return root if isinstance(root, Elsewhere) else root.resolve()


def _unlisted(root: Path | Elsewhere, opened: Opened, parts: Sequence[Part]) -> Iterable[Finding]:
    """Samples that no split of a folder lists."""
    if any(part.wanted.listed is None for part in parts):
        return
    everything = frozenset().union(*(source.names for source in opened.sources.values()))
    if left := sorted(everything.difference(*(part.names for part in parts))):
        splits = " or ".join(str(part.wanted.split) for part in parts)
        yield Finding(
            "extra",
            "note",
            f"{shown(root)}: {counted(len(left), 'sample')}, such as {shown(left[0])}, not in split {splits}",
            "they are not used; list them in splits.json if they should be",
            listed=Listed(left),
        )


def _picture(opened: Opened, key: str, modalities: Mapping[str, Modality]) -> bool:
    return any(modalities[name].spec.array.kind == "feature_map" for name in opened.readers[key])


def _part(wanted: Wanted, opened: Opened, findings: list[Finding]) -> Part:
    everything = frozenset().union(*(source.names for source in opened.sources.values()))
    names = everything if wanted.choose is None else frozenset(wanted.choose(everything))
    if wanted.listed is not None:
        meant = samples_of(wanted.listed, everything)
        names = frozenset(meant.values())
        if missing := sorted(wanted.listed - meant.keys()):
            whole = isinstance(wanted.root, Elsewhere)  # whose splits are not lists, and hold rows of nothing
            findings.append(
                Finding(
                    "missing",
                    "note" if whole else "problem",
                    f"{shown(wanted.root)}: {len(missing)} of {len(wanted.listed)} samples that split {wanted.split} "
                    f"lists have no file, such as {shown(missing[0])}",
                    "they are not used" if whole else "add their files, or take them out of splits.json",
                    part=wanted.name,
                    listed=Listed(missing),
                )
            )
    if overlap := sorted(names.intersection(samples_of(wanted.held_out, names).values())):
        all_of_them = len(overlap) == len(names)
        findings.append(
            Finding(
                "leak",
                "problem",
                f"{shown(wanted.root)}: {len(overlap)} of {len(names)} samples of {wanted.name}, such as "
                f"{shown(overlap[0])}, are in {wanted.held_by} too",
                "take them out of one of the two; training leaves held-out samples out, unless nothing is left then",
                part=wanted.name,
                listed=Listed(overlap),
            )
        )
        names = names if all_of_them else names - frozenset(overlap)
    ordered = sorted(names)
    rows = {name: row for row, name in enumerate(ordered)}
    present = {}
    for key, source in opened.sources.items():
        present[key] = np.zeros(len(ordered), bool)
        present[key][[rows[name] for name in source.names if name in rows]] = True
    return Part(wanted, opened, ordered, present, np.arange(len(ordered)), Survey({}, {}))


def _of_part(part: Part, *, first: bool) -> Iterable[Finding]:
    """Findings of one part by itself; of its classes, only of the first, which is the largest as a rule."""
    for key in part.opened.readers:
        count = int(part.present[key].sum()) if key in part.present else 0
        if not count:
            yield Finding(
                "missing",
                "problem",
                f"{part.name}: no sample has {key}",
                f"add its files to {_home(part.wanted.root, key)}, or leave its modalities "
                f"({', '.join(part.opened.readers[key])}) out of modalities.select",
                part=part.name,
                source=key,
            )
        elif count < len(part.names):
            lacking = [part.names[row] for row in np.flatnonzero(~part.present[key])]
            yield Finding(
                "lacking",
                "note",
                f"{part.name}: {len(lacking)} of {len(part.names)} samples lack {key}, such as {shown(lacking[0])}",
                "they are trained on without it; no remedy is needed if that is meant",
                part=part.name,
                source=key,
                listed=Listed(lacking),
            )
    yield from _bad(part, "damaged", part.survey.damaged)
    yield from _bad(part, "misaligned", part.survey.misaligned)
    if (remarks := part.survey.remarks) and remarks.count:
        yield Finding(
            "remark",
            "note",
            f"{part.name}: {counted(remarks.count, 'remark')} on files that are used, such as: {remarks.items[0]}",
            part=part.name,
            listed=remarks,
        )
    also = {name for names in part.readers.values() for name in names[1:]}  # read the same files
    for name, statistics in part.survey.statistics.items():
        if name in also:
            continue
        yield from _of_statistics(part, name, statistics)
        if first and statistics.samples and len(statistics.class_samples):
            yield from _of_classes(part, name, statistics)


_REMEDIES = {
    "damaged": "mend or remove them; training leaves the modality out of these samples (data.on_error: skip) or ends "
    "(raise). If all of a modality are listed, its settings are likely not those of the data",
    "misaligned": "store them alike (turned by EXIF? cropped?); training leaves them out of their samples",
}


def _home(root: Path | Elsewhere, key: str) -> str:
    return shown(root if isinstance(root, Elsewhere) else root / key)


def _bad(part: Part, kind: str, listed: Listed) -> Iterable[Finding]:
    """A finding for each modality."""
    by_modality: dict[str, Listed] = {}
    for item in listed.items:
        by_modality.setdefault(item["modality"], Listed()).add(item)
    for name, items in by_modality.items():
        first, what = items.items[0], "damaged" if kind == "damaged" else "of another shape than the sample"
        yield Finding(
            kind,
            "problem",
            f"{part.name}: {counted(items.count, 'file')} of {name} {what}, such as {first['file']}: {first['reason']}",
            _REMEDIES[kind],
            part=part.name,
            source=name,
            listed=items,
        )


def _of_statistics(part: Part, name: str, statistics: Statistics) -> Iterable[Finding]:
    read = max(statistics.samples, 1)
    if (constant := statistics.constant).count:
        yield Finding(
            "empty",
            "note",
            f"{part.name}: {constant.count} of {read} samples of {name}, such as {shown(constant.items[0])}, hold one "
            f"value everywhere",
            "black frames or failed exports? remove them if they mean nothing",
            part=part.name,
            source=name,
            listed=constant,
        )
    if (cut := statistics.truncated).count:
        most = statistics.spec.layout.num_tokens
        yield Finding(
            "truncated",
            "note",
            f"{part.name}: {cut.count} of {read} samples of {name}, such as {shown(cut.items[0])}, are longer than "
            f"{most} tokens and are cut there",
            f"raise modalities.settings.{name}.max_tokens if the ends matter",
            part=part.name,
            source=name,
            listed=cut,
        )


def _of_classes(part: Part, name: str, statistics: Statistics) -> Iterable[Finding]:
    never = [statistics.class_name(k) for k in np.flatnonzero(statistics.class_samples == 0).tolist()]
    seen = f" in the {counted(len(part.read), 'sample')} read" if len(part.read) < len(part.names) else ""
    if never:
        yield Finding(
            "empty",
            "note",
            f"{part.name}: {len(never)} of {len(statistics.class_samples)} classes of {name} never occur{seen}: "
            f"{', '.join(never[:8])}{', …' if len(never) > 8 else ''}",
            "expected of rare classes; otherwise compare the ids with num_classes and classes of its settings",
            part=part.name,
            source=name,
            listed=Listed(never),
        )

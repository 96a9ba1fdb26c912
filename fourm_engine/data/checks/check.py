"""Checks a data set: counts, sizes, statistics, and findings.

In: the parts of a data set (train and val, or the splits of a folder) and the modalities. Out: `DataCheck`, with
everything in `to_json`. Memory: names, and 17 bytes per file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.checks.equal_files import equal_files
from fourm_engine.data.checks.files import Reader, survey
from fourm_engine.data.checks.findings import Finding, Kind, Listed
from fourm_engine.data.checks.part import Part, Wanted, part_of
from fourm_engine.data.checks.sources import ReadableSources
from fourm_engine.data.checks.statistics import Statistics
from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

FORMAT = 1


@dataclass
class DataCheck:
    """The result. `tokens`: the contents of token shards, an entry per part and modality."""

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
        tokenizers: modality -> fitted tokenizer, of sequences, for lengths in tokens.
        progress: part -> a function called with (done, total).

    Raises ValueError if there is no data at all."""
    check, roots = DataCheck([], modalities, seed=seed), dict[tuple, ReadableSources]()
    for one in wanted:
        readers = one.modalities or modalities
        root = _resolved(one.root), one.shards, frozenset((name, m.spec.source) for name, m in readers.items())
        if root not in roots:
            roots[root] = ReadableSources(one.root, readers, shards=one.shards, max_bytes=max_bytes)
            check.findings += roots[root].findings
        part = part_of(one, roots[root], check.findings)
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
        check.findings += _unlisted(opened, [part for part in check.parts if part.opened is opened])
    maps = {name for name, modality in modalities.items() if modality.spec.array.kind == "feature_map"}
    pictures = {key for part in check.parts for key, names in part.readers.items() if maps & {*names}}
    read = [(part.name, _resolved(part.wanted.root), part.names_read, part.survey.rows) for part in check.parts]
    check.findings += equal_files(read, pictures)
    return check


def _resolved(root: Path | PluginRoot) -> Path | PluginRoot:
    return root if isinstance(root, PluginRoot) else root.resolve()


def _unlisted(opened: ReadableSources, parts: Sequence[Part]) -> Iterable[Finding]:
    """Samples that no split of a folder lists."""
    if any(part.wanted.listed is None for part in parts):
        return
    everything = frozenset().union(*(source.names for source in opened.sources.values()))
    if left := sorted(everything.difference(*(part.names for part in parts))):
        splits = " or ".join(str(part.wanted.split) for part in parts)
        what = f"{counted(len(left), 'sample')}, such as {shown(left[0])}, not in split {splits}"
        remedy = "they are not used; list them in splits.json if they should be"
        yield Finding("extra", "note", f"{shown(opened.root)}: {what}", remedy, listed=Listed(left))


def _of_part(part: Part, *, first: bool) -> Iterable[Finding]:
    """Findings on a single part; on classes, only for the first part, usually the largest."""
    for key in part.opened.readers:
        count = int(part.present[key].sum()) if key in part.present else 0
        if not count:
            root, names = part.wanted.root, ", ".join(part.opened.readers[key])
            where = shown(root if isinstance(root, PluginRoot) else root / key)
            remedy = f"add its files to {where}, or leave its modalities ({names}) out of modalities.select"
            yield part.finding("missing", "problem", f"no sample has {key}", remedy, source=key)
        elif count < len(part.names):
            lacking = [part.names[row] for row in np.flatnonzero(~part.present[key])]
            what = f"{len(lacking):,} of {len(part.names):,} samples lack {key}, such as {shown(lacking[0])}"
            remedy = "they are trained on without it; no remedy is needed if that is meant"
            yield part.finding("lacking", "note", what, remedy, source=key, listed=Listed(lacking))
    yield from _bad(part, "damaged", part.survey.damaged)
    yield from _bad(part, "misaligned", part.survey.misaligned)
    if (remarks := part.survey.remarks) and remarks.count:
        what = f"{counted(remarks.count, 'remark')} on files that are used, such as: {remarks.items[0]}"
        yield part.finding("remark", "note", what, listed=remarks)
    also = {name for names in part.readers.values() for name in names[1:]}  # read the same files
    for name, statistics in part.survey.statistics.items():
        if name in also:
            continue
        yield from _of_statistics(part, name, statistics)
        if first and statistics.samples and len(statistics.class_samples):
            yield from _of_classes(part, name, statistics)


_REMEDIES: dict[Kind, str] = {
    "damaged": "mend or remove them; training leaves the modality out of these samples (data.on_error: skip) or ends "
    "(raise). If all of a modality are listed, its settings are likely not those of the data",
    "misaligned": "store them alike (turned by EXIF? cropped?); training leaves them out of their samples",
}


def _bad(part: Part, kind: Kind, listed: Listed) -> Iterable[Finding]:
    """One finding per modality."""
    by_modality: dict[str, Listed] = {}
    for item in listed.items:
        by_modality.setdefault(item["modality"], Listed()).add(item)
    for name, items in by_modality.items():
        first, what = items.items[0], "damaged" if kind == "damaged" else "of another shape than the sample"
        said = f"{counted(items.count, 'file')} of {name} {what}, such as {first['file']}: {first['reason']}"
        yield part.finding(kind, "problem", said, _REMEDIES[kind], source=name, listed=items)


def _of_statistics(part: Part, name: str, statistics: Statistics) -> Iterable[Finding]:
    def some(listed: Listed) -> str:
        return (
            f"{listed.count:,} of {max(statistics.samples, 1):,} samples of {name}, such as {shown(listed.items[0])},"
        )

    if (constant := statistics.constant).count:
        remedy = "black frames or failed exports? remove them if they mean nothing"
        what = f"{some(constant)} hold one value everywhere"
        yield part.finding("empty", "note", what, remedy, source=name, listed=constant)
    if (cut := statistics.truncated).count:
        what = f"{some(cut)} are longer than {statistics.spec.layout.num_tokens} tokens and are cut there"
        remedy = f"raise modalities.settings.{name}.max_tokens if the ends matter"
        yield part.finding("truncated", "note", what, remedy, source=name, listed=cut)


def _of_classes(part: Part, name: str, statistics: Statistics) -> Iterable[Finding]:
    never = [statistics.class_name(k) for k in np.flatnonzero(statistics.class_samples == 0).tolist()]
    seen = f" in the {counted(len(part.read), 'sample')} read" if len(part.read) < len(part.names) else ""
    if never:
        what = f"{len(never):,} of {len(statistics.class_samples):,} classes of {name} never occur{seen}: "
        what += f"{', '.join(never[:8])}{', …' if len(never) > 8 else ''}"
        remedy = "expected of rare classes; otherwise compare the ids with num_classes and classes of its settings"
        yield part.finding("empty", "note", what, remedy, source=name, listed=Listed(never))

"""Opening a data set to look at it: whatever can be read is opened, and what cannot is named.

Where training ends at the first shard that cannot be trusted, this goes on without it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fourm_engine.data.checks.findings import Finding, Kind, Level, Listed
from fourm_engine.data.raw.available import beside
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.folder import MAX_FILE_BYTES, FolderSource, Listing, is_folder
from fourm_engine.data.raw.names import is_litter, shown
from fourm_engine.data.raw.pairing import unpaired
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.sample_shards import Key, claims_of, open_sample_shards
from fourm_engine.data.raw.shard_scan import scan
from fourm_engine.data.raw.source import MixedSource, Source, joined, root_shards
from fourm_engine.data.raw.source import Opened as AllSources
from fourm_engine.data.raw.tar import Shards, TarSource, in_two
from fourm_plugins.modality import Modality

#: What the notes of a source say -> (kind, level) of the finding; the first that fits.
_NOTES: tuple[tuple[str, Kind, Level], ...] = (
    ("both loose and in a shard", "duplicated", "note"),
    ("archives", "extra", "problem"),
    ("cannot be listed", "unreadable", "problem"),
    ("all files lie in", "remark", "note"),
    ("", "extra", "note"),
)


@dataclass
class Opened:
    """The sources in `root`, by a key that is the name of the folder, unless modalities read different files of it."""

    root: Path | PluginRoot
    sources: dict[str, Source] = field(default_factory=dict)
    #: Key -> the modalities that read it, of all modalities.
    readers: dict[str, list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def open_data(
    root: Path | PluginRoot, modalities: Mapping[str, Modality], *, shards: Sequence[str] | None = None, max_bytes: int
) -> Opened:
    """`shards`: of the tars in the root, those to read; None: all. Raises ValueError where there is no such folder."""
    if isinstance(root, Path) and not root.is_dir():
        raise ValueError(f"{shown(root)}: no such folder; it should hold a folder for each modality")
    opened, claims = Opened(root), claims_of([modality.spec for modality in modalities.values()])
    reasons, there = list[str](), dict[Key, Source]()
    shared: Mapping[Key, Shards] = {}
    try:
        if isinstance(root, PluginRoot):
            catalogue = open_catalogue(root, [modality.spec for modality in modalities.values()], max_bytes=max_bytes)
            there = catalogue.sources
            opened.findings += [Finding("remark", "note", note) for note in catalogue.notes]
        else:
            tars = root_shards(root) if shards is None else shards
            there = AllSources(root, claims, tars, max_bytes=max_bytes).sources
    except ValueError as error:
        reasons.append(str(error))
    if reasons and isinstance(root, Path):
        good, bad = trusted_shards(root, modalities, shards, max_bytes)
        opened.findings += [Finding("unreadable", "problem", one, "training ends there") for one in bad]
        shared = open_sample_shards(root, good, claims, max_bytes=max_bytes, scan=scan).sources
    kinds: dict[Key, list[str]] = {}
    for name, modality in modalities.items():
        kinds.setdefault(modality.spec.files, []).append(name)
    for files, names in kinds.items():
        folder, extensions = files
        alone = sum(other == folder for other, _ in kinds) == 1
        key = folder if alone else f"{folder} (.{', .'.join(extensions)})"
        opened.readers[key] = names
        source = there.get(files)
        if reasons and isinstance(root, Path):
            salvaged, inside = _salvage(opened, root / folder, key, extensions, max_bytes), shared.get(files)
            source = _beside(opened, key, salvaged, inside) if salvaged and inside else salvaged or inside
        if source is None:
            continue
        opened.sources[key] = source
        for note in source.notes:
            kind, level = next((kind, level) for part, kind, level in _NOTES if part in note)
            opened.findings.append(Finding(kind, level, note, source=key))
    for reason in reasons if not any(one.kind == "unreadable" for one in opened.findings) else ():
        opened.findings.append(Finding("unreadable", "problem", reason, "training ends there"))
    if isinstance(root, Path):
        _look_beside(opened, root, modalities)
    names_of = {key: source.names for key, source in opened.sources.items()}
    for line in unpaired(names_of):
        remedy = "equal names make one sample; rename the files"
        opened.findings.append(Finding("misnamed", "problem", f"{shown(root)}: {line}", remedy))
    return opened


def trusted_shards(
    root: Path, modalities: Mapping[str, Modality], shards: Sequence[str] | None = None, max_bytes: int = MAX_FILE_BYTES
) -> tuple[list[str], list[str]]:
    """The tars in `root` that can be read, and why each of the others cannot: it is cut off, or holds a sample that one
    before it holds too."""
    claims = claims_of([modality.spec for modality in modalities.values()])
    good, reasons, holders = list[str](), list[str](), dict[tuple[Key, str], str]()
    for shard in root_shards(root) if shards is None else shards:
        try:
            sources = open_sample_shards(root, [shard], claims, max_bytes=max_bytes, scan=scan).sources
        except ValueError as error:
            reasons.append(str(error))
            continue
        held = [(key, name) for key, source in sources.items() for name in source.names]
        if twice := [one for one in held if one in holders]:
            reasons.append(in_two(twice[0][1], root / holders[twice[0]], root / shard))
            continue
        holders |= dict.fromkeys(held, shard)
        good.append(shard)
    return good, reasons


def _beside(opened: Opened, key: str, folder: FolderSource | TarSource | MixedSource, inside: Shards) -> Source:
    """Samples of a folder together with those in the tars that hold all modalities."""
    try:
        return joined(folder, inside)
    except ValueError as error:
        opened.findings.append(Finding("unreadable", "problem", str(error), "training ends there", source=key))
        return folder


def _salvage(
    opened: Opened, folder: Path, key: str, extensions: tuple[str, ...], max_bytes: int
) -> FolderSource | TarSource | MixedSource | None:
    """The source without the shards that cannot be trusted, each of which is named; None where nothing is left."""

    def tell(reason: str) -> None:
        opened.findings.append(Finding("unreadable", "problem", reason, "training ends there", source=key))

    if not folder.is_dir():
        return None
    listing, good, holders = Listing(folder, extensions), list[str](), dict[str, str]()
    for shard in listing.shards:
        one = copy.copy(listing)
        one.shards, one.files = [shard], []
        try:
            names = TarSource(folder, extensions, max_bytes=max_bytes, listing=one).names
        except ValueError as error:
            tell(str(error))
            continue
        if twice := [name for name in names if name in holders]:
            some, other = f"{len(twice)} of its samples, such as {shown(twice[0])},", holders[twice[0]]
            tell(f"{shown(folder / shard)}: {some} are in {shown(folder / other)} too; remove one")
            continue
        holders |= dict.fromkeys(names, shard)
        good.append(shard)
    listing.shards = good
    try:
        loose = FolderSource(folder, extensions, max_bytes=max_bytes, listing=listing) if listing.files else None
    except ValueError as error:
        loose = None
        tell(str(error))
    if not (listing.files or listing.shards):
        tell(listing.no_samples())
    shards = TarSource(folder, extensions, max_bytes=max_bytes, listing=listing) if good else None
    return MixedSource(loose, shards) if loose and shards else loose or shards


def _look_beside(opened: Opened, root: Path, modalities: Mapping[str, Modality]) -> None:
    """Report what lies in the root and belongs to no modality."""
    for line in beside(root, modalities.values()):
        level: Level = "problem" if "archives" in line or "is not read" in line else "note"
        opened.findings.append(Finding("extra", level, f"{shown(root)}: {line}"))
    sources = {modality.spec.source for modality in modalities.values()}
    with os.scandir(root) as entries:
        others = sorted(e.name for e in entries if is_folder(e) and e.name not in sources and not is_litter(e.name))
    if others:
        some = f"{', '.join(map(shown, others[:8]))}{', …' if len(others) > 8 else ''}"
        said = f"{shown(root)}: folders that no modality reads: {some}"
        remedy = "`fourm plugins list` shows what is installed; an instance may read another folder (setting source)"
        opened.findings.append(Finding("extra", "note", said, remedy, listed=Listed(others)))

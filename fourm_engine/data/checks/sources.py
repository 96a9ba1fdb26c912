"""The sources of a data set to check: opens what can be read, and names what cannot.

Unlike training, it continues after a damaged shard, without it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fourm_engine.data.checks.findings import Finding, Kind, Level, Listed
from fourm_engine.data.raw.available import stray_data
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.folder import FolderSource, Listing, is_folder
from fourm_engine.data.raw.local_sources import LocalSources, MixedSource, root_shards
from fourm_engine.data.raw.names import is_litter, shown
from fourm_engine.data.raw.notes import Note, NoteKind
from fourm_engine.data.raw.pairing import unpaired
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.sample_shards import Key, claims_of, open_sample_shards
from fourm_engine.data.raw.shard_scan import scan
from fourm_engine.data.raw.source import Source
from fourm_engine.data.raw.tar import TarSource, in_two
from fourm_plugins.modality import Modality

#: Kind of a note -> kind and level of the finding.
_OF_NOTES: dict[NoteKind, tuple[Kind, Level]] = {
    "left out": ("extra", "note"),
    "archive": ("extra", "problem"),
    "unlistable": ("unreadable", "problem"),
    "unclear": ("extra", "note"),
    "wrapped": ("remark", "note"),
    "duplicate": ("duplicated", "note"),
    "misnamed": ("extra", "problem"),
    "plugin": ("remark", "note"),
}


class ReadableSources:
    """The readable data in `root`, and `findings` on the rest.

    Args:
        shards: the tars in the root to read; None: all.

    Raises ValueError if there is no such folder."""

    def __init__(
        self,
        root: Path | PluginRoot,
        modalities: Mapping[str, Modality],
        *,
        shards: Sequence[str] | None = None,
        max_bytes: int,
    ) -> None:
        if isinstance(root, Path) and not root.is_dir():
            raise ValueError(f"{shown(root)}: no such folder; it should hold a folder for each modality")
        self.root, self.max_bytes, self.findings = root, max_bytes, list[Finding]()
        readers: dict[Key, list[str]] = {}
        for name, modality in modalities.items():
            readers.setdefault(modality.spec.files, []).append(name)
        folders = [folder for folder, _ in readers]
        keys = {key: key[0] if folders.count(key[0]) == 1 else f"{key[0]} (.{', .'.join(key[1])})" for key in readers}
        #: The name of the folder (more specific if modalities read different files of it) -> the modalities that read
        #: it.
        self.readers = {keys[key]: names for key, names in readers.items()}
        #: The same -> source, if there is data.
        self.sources: dict[str, Source] = {}
        for key, source in self._open(modalities, shards, keys).items():
            self.sources[keys[key]] = source
            for note in source.notes:
                self._add(note, keys[key])
        if isinstance(root, Path):
            self._look_beside(root, modalities)
        for line in unpaired({key: source.names for key, source in self.sources.items()}):
            remedy = "equal names make one sample; rename the files"
            self.findings.append(Finding("misnamed", "problem", f"{shown(root)}: {line}", remedy))

    def _open(
        self, modalities: Mapping[str, Modality], shards: Sequence[str] | None, keys: Mapping[Key, str]
    ) -> dict[Key, Source]:
        """In the order of `keys`."""
        specs = [modality.spec for modality in modalities.values()]
        opened: dict[Key, Source] = {}
        try:
            if isinstance(self.root, PluginRoot):
                catalogue = open_catalogue(self.root, specs, max_bytes=self.max_bytes)
                opened = catalogue.sources
                for note in catalogue.notes:
                    self._add(note)
            else:
                tars = root_shards(self.root) if shards is None else shards
                local = LocalSources(self.root, claims_of(specs), tars, max_bytes=self.max_bytes)
                opened = dict(local.sources)
                for note in local.notes:  # on the shards of all modalities; others are those of a source
                    self._add(note)
        except ValueError as error:
            if isinstance(self.root, Path):
                good, bad = trusted_shards(self.root, modalities, shards, self.max_bytes)
                for reason in bad:
                    self._unreadable(reason)
                shared = open_sample_shards(self.root, good, claims_of(specs), max_bytes=self.max_bytes, scan=scan)
                for note in shared.notes:
                    self._add(note)
                for key, name in keys.items():
                    source = self._salvage(self.root / key[0], key[1], name)
                    inside = shared.sources.get(key)
                    if source and inside:
                        try:
                            source = MixedSource(source, inside)
                        except ValueError as twice:
                            self._unreadable(str(twice), name)
                    if either := source or inside:
                        opened[key] = either
            if not any(finding.kind == "unreadable" for finding in self.findings):
                self._unreadable(str(error))
        return {key: opened[key] for key in keys if key in opened}

    def _salvage(
        self, folder: Path, extensions: tuple[str, ...], name: str
    ) -> FolderSource | TarSource | MixedSource | None:
        """The source without its damaged shards, each of which is reported; None if nothing is left."""
        if not folder.is_dir():
            return None
        listing, good, holders = Listing(folder, extensions), list[str](), dict[str, str]()
        for shard in listing.shards:
            alone = copy.copy(listing)
            alone.shards, alone.files = [shard], []
            try:
                names = TarSource(alone, max_bytes=self.max_bytes).names
            except ValueError as error:
                self._unreadable(str(error), name)
                continue
            if twice := [sample for sample in names if sample in holders]:
                some, other = f"{len(twice)} of its samples, such as {shown(twice[0])},", holders[twice[0]]
                text = f"{shown(folder / shard)}: {some} are in {shown(folder / other)} too; remove one"
                self._unreadable(text, name)
                continue
            holders |= dict.fromkeys(names, shard)
            good.append(shard)
        listing.shards, loose = good, None
        try:
            if listing.files:
                loose = FolderSource(listing, max_bytes=self.max_bytes)
        except ValueError as error:
            self._unreadable(str(error), name)
        if not (listing.files or listing.shards):
            self._unreadable(listing.no_samples(), name)
        shards = TarSource(listing, max_bytes=self.max_bytes) if good else None
        return MixedSource(loose, shards) if loose and shards else loose or shards

    def _look_beside(self, root: Path, modalities: Mapping[str, Modality]) -> None:
        """Report entries of the root that belong to no modality."""
        for note in stray_data(root, modalities.values()):
            self._add(note)
        sources = {modality.spec.source for modality in modalities.values()}
        with os.scandir(root) as entries:
            others = sorted(e.name for e in entries if is_folder(e) and e.name not in sources and not is_litter(e.name))
        if others:
            some = f"{', '.join(map(shown, others[:8]))}{', …' if len(others) > 8 else ''}"
            text = f"{shown(root)}: folders that no modality reads: {some}"
            remedy = (
                "`fourm plugins list` shows what is installed; an instance may read another folder (setting source)"
            )
            self.findings.append(Finding("unread", "note", text, remedy, listed=Listed(others)))

    def _add(self, note: Note, source: str = "") -> None:
        self.findings.append(Finding(*_OF_NOTES[note.kind], str(note), source=source))

    def _unreadable(self, reason: str, source: str = "") -> None:
        self.findings.append(Finding("unreadable", "problem", reason, "training ends there", source=source))


def trusted_shards(
    root: Path, modalities: Mapping[str, Modality], shards: Sequence[str] | None = None, max_bytes: int = MAX_FILE_BYTES
) -> tuple[list[str], list[str]]:
    """The readable tars in `root`, and the reason for each other one: it is truncated, or contains a sample that an
    earlier one also contains."""
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

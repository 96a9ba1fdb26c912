"""The sources of a data set in a local folder: a folder of files, tar shards with random access, or both.

In: `root/<source>/`, and tars in `root` with all modalities. Out: a `Source` for each modality.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.folder import FolderSource, Listing
from fourm_engine.data.raw.names import is_litter, shown
from fourm_engine.data.raw.notes import Note
from fourm_engine.data.raw.sample_shards import Claim, Key, open_sample_shards, others_of
from fourm_engine.data.raw.shard_scan import Scan, scan
from fourm_engine.data.raw.source import FileSource, LooseFiles, ShardMembers
from fourm_engine.data.raw.tar import Shards, TarSource, in_two


def root_shards(root: Path) -> list[str]:
    """The tars in the root of a data set."""
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(".tar") and not is_litter(e.name))


def open_source(
    root: Path, source: str, extensions: Sequence[str], *, max_bytes: int = MAX_FILE_BYTES
) -> FolderSource | TarSource | MixedSource | None:
    """The source in `root/source`; None if there is no such folder.

    Raises ValueError for a folder without files of the extensions, and for invalid shards."""
    folder = Path(root) / source
    return _open_listed(Listing(folder, extensions), max_bytes, scan) if folder.is_dir() else None


def _open_listed(listing: Listing, max_bytes: int, scan: Scan) -> FolderSource | TarSource | MixedSource:
    if not listing.shards:
        return FolderSource(listing, max_bytes=max_bytes)
    shards = TarSource(listing, max_bytes=max_bytes, scan=scan)
    return MixedSource(FolderSource(listing, max_bytes=max_bytes), shards) if listing.files else shards


class LocalSources:
    """The sources of a data set, by claim."""

    def __init__(
        self,
        root: Path,
        claims: Sequence[Claim],
        shards: Sequence[str],
        *,
        max_bytes: int = MAX_FILE_BYTES,
        scan: Scan = scan,
        only: Key | None = None,
    ) -> None:
        """`shards`: those in the root; `only`: the claims whose sources to open, None: all. Raises ValueError for
        invalid shards."""
        self.root = root
        self.sources: dict[Key, FileSource] = {}
        self.listings: dict[Key, Listing] = {}
        shared = open_sample_shards(root, shards, claims, max_bytes=max_bytes, scan=scan)
        self.notes, self.by_extension = shared.notes, shared.by_extension
        for key in (claim.key for claim in claims if only in (None, claim.key)):
            if (inside := shared.sources.get(key)) is not None:
                self.sources[key] = inside
            if not (folder := root / key[0]).is_dir():
                continue
            listing = self.listings[key] = Listing(folder, key[1], others_of(key, (claim.key for claim in claims)))
            if listing.files or listing.shards or inside is None:
                source = _open_listed(listing, max_bytes, scan)
                self.sources[key] = source if inside is None else MixedSource(source, inside)


class MixedSource(FileSource):
    """Sources in one: loose files, first, and shards, in a folder or with all modalities. If both have a sample, the
    loose files are used: they may be later corrections. Raises ValueError for a sample in two shards."""

    def __init__(self, *sources: FolderSource | Shards | MixedSource) -> None:
        self.parts: list[FolderSource | Shards] = []
        for one in sources:
            self.parts += one.parts if isinstance(one, MixedSource) else [one]
        self.loose = next((part for part in self.parts if isinstance(part, FolderSource)), None)
        self.shards = [part for part in self.parts if isinstance(part, Shards)]
        self.max_bytes = sources[0].max_bytes
        self._of: dict[str, FolderSource | Shards] = {}
        for source in self.shards:
            for name in source.names:
                if (other := self._of.setdefault(name, source)) is not source:
                    assert isinstance(other, Shards)
                    raise ValueError(in_two(name, other.sample(name).shard, source.sample(name).shard))
        self.notes = list(dict.fromkeys(note for part in self.parts for note in part.notes))
        if (loose := self.loose) is not None:
            if both := [name for name in loose.names if name in self._of]:
                some = f"{len(both)}, such as {self._of[both[0]].where(both[0])}"
                text = f"samples both loose and in a shard: {some}; the loose files are used"
                self.notes.append(Note("duplicate", shown(loose.folder), text))
            self._of |= dict.fromkeys(loose.names, loose)
        self.names = sorted(self._of)

    def sample(self, name: str) -> LooseFiles | ShardMembers:
        return self._of[name].sample(name)

    def by_shard(self) -> dict[str | None, Sequence[str]]:
        units: dict[str | None, Sequence[str]] = {}
        for source in self.shards:
            for shard, names in source.by_shard().items():
                units[shard] = [*units.get(shard, ()), *(name for name in names if self._of[name] is source)]
        if self.loose is not None:
            units[None] = self.loose.names
        return units

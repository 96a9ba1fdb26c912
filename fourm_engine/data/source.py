"""Where the files of one modality come from: a folder of files, tar shards with random access, or both.

In: `root/<source>/`. Out: a `Source`: sorted sample names and, by name, {extension: content}. The name of a sample is
its path below the folder without the extension (see `names.plain`), so that modalities match by name; a shard is read
as if it was unpacked where it lies.

Nothing is extracted to disk. Only regular files and members of bounded size are read. Links are followed: to files, to
folders (each is read once, so that loops end), and in a shard to members of the same shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from fourm_engine.data.folder import MAX_FILE_BYTES, FolderSource, Listing
from fourm_engine.data.names import shown
from fourm_engine.data.tar import TarSource
from fourm_plugins.spec import ModalitySpec

__all__ = ["MAX_FILE_BYTES", "FolderSource", "MixedSource", "Source", "TarSource", "open_source", "open_sources"]


class Source(Protocol):
    """Picklable; safe to use after a fork."""

    names: list[str]  # sorted
    notes: list[str]  # what was left out and why, a line a kind

    def files(self, name: str) -> dict[str, bytes]:
        """The files of a sample, {extension without dot: content}. Raises SampleError for what may not be read."""

    def where(self, name: str) -> str:
        """Path, or shard:member, for messages."""

    def stamp(self, name: str) -> str:
        """Sizes and times of the files of a sample; equal where they are unchanged, '' where they are gone."""


def open_source(
    root: Path, source: str, extensions: Sequence[str], *, max_bytes: int = MAX_FILE_BYTES
) -> FolderSource | TarSource | MixedSource | None:
    """The source in `root/source`; None where there is no such folder.

    Raises ValueError for a folder that holds none of the extensions, and for shards that cannot be trusted."""
    folder = Path(root) / source
    if not folder.is_dir():
        return None
    listing = Listing(folder, extensions)
    if not listing.shards:
        return FolderSource(folder, extensions, max_bytes=max_bytes, listing=listing)
    shards = TarSource(folder, extensions, max_bytes=max_bytes, listing=listing)
    if not listing.files:
        return shards
    return MixedSource(FolderSource(folder, extensions, max_bytes=max_bytes, listing=listing), shards)


def open_sources(root: Path, specs: Iterable[ModalitySpec], *, max_bytes: int = MAX_FILE_BYTES) -> dict[str, Source]:
    """Modality -> its source, where its folder exists; modalities of one folder and the same extensions share one."""
    opened: dict[tuple[str, tuple[str, ...]], Source | None] = {}
    sources: dict[str, Source] = {}
    for spec in specs:
        key = (spec.source, spec.extensions)
        if key not in opened:
            opened[key] = open_source(root, *key, max_bytes=max_bytes)
        if (source := opened[key]) is not None:
            sources[spec.name] = source
    return sources


class MixedSource:
    """Loose files and shards. Of a sample that both have the loose files are used: they may have been corrected since
    the shard was written."""

    def __init__(self, loose: FolderSource, shards: TarSource) -> None:
        self.loose, self.shards = loose, shards
        self._loose = frozenset(loose.names)
        self.names = sorted(self._loose.union(shards.names))
        self.notes = [*loose.notes, *(note for note in shards.notes if note not in loose.notes)]
        if both := [name for name in shards.names if name in self._loose]:
            self.notes.append(
                f"{shown(loose.folder)}: samples both loose and in a shard: {len(both)}, such as "
                f"{shards.where(both[0])}; the loose files are used"
            )

    def files(self, name: str) -> dict[str, bytes]:
        return self._of(name).files(name)

    def where(self, name: str) -> str:
        return self._of(name).where(name)

    def stamp(self, name: str) -> str:
        return self._of(name).stamp(name)

    def _of(self, name: str) -> FolderSource | TarSource:
        return self.loose if name in self._loose else self.shards

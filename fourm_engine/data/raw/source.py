"""Source: the files of one modality, by sample.

The name of a sample is its path below the folder without the extension (see `names.plain`), so that modalities match
by name. A shard is read as if it were unpacked in place, but nothing is extracted to disk. Only regular files and
members of bounded size are read. Links are followed: to files, to folders (each is read once, so that loops end), and
within a shard to members of the same shard.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fourm_engine.data.raw.file_bytes import Stamp, read_file, read_member, stamp_of
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.notes import Note
from fourm_engine.data.raw.tar_members import Content
from fourm_engine.storage.location import Location, Readable


class Source(ABC):
    """Picklable; safe to use after a fork."""

    #: Sorted.
    names: Sequence[str]
    #: Notes on skipped files, one per kind.
    notes: list[Note]

    @abstractmethod
    def extensions_of(self, name: str) -> list[str]:
        """The extensions of the files of a sample."""

    @abstractmethod
    def files(self, name: str) -> dict[str, bytes]:
        """The files of a sample, {extension without dot: content}. Raises SampleError if one cannot be read."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Path, or shard:member, for messages."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """Sizes and times of a sample's files: equal if they are unchanged, '' if they no longer exist."""

    def by_shard(self) -> dict[str | None, Sequence[str]]:
        """Path of each shard -> its samples; None -> samples of loose files. Paths are relative to the modality's
        folder, or to the root for shards with all modalities."""
        return {None: self.names}


class LooseFiles(NamedTuple):
    """Files of a sample: extension -> path relative to the folder."""

    folder: Readable
    files: Mapping[str, str]

    def read(self, max_bytes: int) -> dict[str, bytes]:
        return {extension: read_file(self.folder / path, max_bytes) for extension, path in self.files.items()}

    def where(self) -> str:
        return ", ".join(shown(self.folder / path) for path in self.files.values())

    def stamp(self) -> str:
        if isinstance(self.folder, Location):  # as they were when they were indexed
            return ";".join(map(":".join, sorted(self.files.items())))
        try:
            states = {extension: os.stat(self.folder / path) for extension, path in sorted(self.files.items())}
        except OSError:
            return ""
        return ";".join(f"{extension}:{state.st_size}:{state.st_mtime_ns}" for extension, state in states.items())


class ShardMembers(NamedTuple):
    """Files of a sample in a shard, by extension. `scanned`: size and time of the shard when it was scanned."""

    shard: Readable
    scanned: Stamp
    files: Mapping[str, Content]

    def read(self, max_bytes: int) -> dict[str, bytes]:
        return {e: read_member(self.shard, self.scanned, content, max_bytes) for e, content in self.files.items()}

    def where(self) -> str:
        return ", ".join(f"{shown(self.shard)}:{shown(content.member)}" for content in self.files.values())

    def stamp(self) -> str:
        try:
            size, time = self.scanned if isinstance(self.shard, Location) else stamp_of(self.shard)
        except OSError:
            return ""
        members = (f"{extension}:{c.offset}:{c.size}" for extension, c in sorted(self.files.items()))
        return ";".join((f"{size}:{time}", *members))


class FileSource(Source):
    """A source of files and shards. `max_bytes`: maximum size of a file."""

    max_bytes: int

    @abstractmethod
    def sample(self, name: str) -> LooseFiles | ShardMembers:
        """The files of a sample. Raises KeyError for an unknown sample."""

    def extensions_of(self, name: str) -> list[str]:
        return list(self.sample(name).files)

    def files(self, name: str) -> dict[str, bytes]:
        return self.sample(name).read(self.max_bytes)

    def where(self, name: str) -> str:
        return self.sample(name).where()

    def stamp(self, name: str) -> str:
        return self.sample(name).stamp()

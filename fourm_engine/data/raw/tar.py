"""Tar shards with random access: one pass over the headers, then members are read by their offsets."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES, Stamp, close_below
from fourm_engine.data.raw.folder import Listing
from fourm_engine.data.raw.names import is_document, plain, remedy_for, shown, split, wrapping
from fourm_engine.data.raw.notes import LeftOut, Note
from fourm_engine.data.raw.shard_scan import Scan, Scanned, scan
from fourm_engine.data.raw.source import FileSource, ShardMembers
from fourm_engine.data.raw.tar_members import Content
from fourm_engine.storage.location import Readable


class Shards(FileSource):
    """Samples of one modality in tar shards below `folder`, one shard after another by `add`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.names: list[str] = []
        self.notes: list[Note] = []
        self._shards: list[tuple[str, Stamp]] = []
        self._paths: list[Path] = []  # of each
        self._index: dict[str, tuple[int, dict[str, Content]]] = {}  # name -> (shard, by extension)

    def add(self, shard: str, stamp: Stamp, files: Mapping[tuple[str, str], Content]) -> None:
        """Add {(sample, extension): content} of a shard. Raises ValueError if another shard has one of the samples."""
        number = len(self._shards)
        self._shards.append((shard, stamp))
        self._paths.append(self.folder / shard)
        for (name, extension), content in files.items():
            first, of_sample = self._index.setdefault(name, (number, {}))
            if first != number:
                raise ValueError(in_two(name, self.folder / self._shards[first][0], self.folder / shard))
            of_sample[extension] = content

    def finish(self) -> None:
        self.names = sorted(self._index)

    def by_shard(self) -> dict[str | None, Sequence[str]]:
        """Relative path of each shard -> its samples, both sorted."""
        shards: list[list[str]] = [[] for _ in self._shards]
        for name in self.names:
            shards[self._index[name][0]].append(name)
        return {shard: names for (shard, _), names in zip(self._shards, shards)}

    def sample(self, name: str) -> ShardMembers:
        number, contents = self._index[name]
        return ShardMembers(self._paths[number], self._shards[number][1], contents)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            close_below(self.folder)


class TarSource(Shards):
    """The tars of a listing, `folder/**/*.tar`, each read as if it were unpacked in place.

    Raises ValueError, naming the shard, for a truncated or invalid tar file, a path outside the archive (absolute, or
    with `..`), or a sample that another shard contains, too. A member that is too large, or neither a regular file nor
    a link to one in the same shard, only causes an error when its sample is read."""

    def __init__(self, listing: Listing, *, max_bytes: int = MAX_FILE_BYTES, scan: Scan = scan) -> None:
        super().__init__(listing.folder, max_bytes)
        left_out, extensions = LeftOut(), listing.extensions
        self.notes += listing.notes
        for shard in listing.shards:
            scanned = scan(self.folder / shard)
            self.add(shard, scanned.stamp, self._named(shard, self._samples(shard, scanned, extensions, left_out)))
        self.notes += left_out.notes(self.folder)
        self.finish()
        if not self.names and not listing.files:
            raise ValueError(listing.no_samples(self.notes))

    def _samples(
        self, shard: str, scanned: Scanned, extensions: Sequence[str], left_out: LeftOut
    ) -> dict[tuple[str, str], Content]:
        samples: dict[tuple[str, str], Content] = {}
        for clean in scanned.samples:
            key = split(clean, extensions)
            if key is None:
                kinds = ", ".join("." + extension for extension in extensions)
                leave_out(shard, clean, scanned, f"files in shards that are no {kinds}", left_out)
            elif key in samples:
                raise ValueError(two_files(self.folder / shard, *key))
            else:
                samples[key] = scanned.contents[clean]
        return samples

    def _named(self, shard: str, samples: dict[tuple[str, str], Content]) -> dict[tuple[str, str], Content]:
        """Prefix names with the shard's folder, and remove a folder that only repeats the modality's."""
        above, slash, _ = plain(shard).rpartition("/")
        wrapped = wrapping([name for name, _ in samples], shown(self.folder.name))
        if wrapped:
            text = f"all files lie in {wrapped} inside; their names are what follows it"
            self.notes.append(Note("wrapped", shown(self.folder / shard), text))
        return {(above + slash + name[len(wrapped) :], extension): c for (name, extension), c in samples.items()}


def leave_out(shard: str, clean: str, scanned: Scanned, what: str, left_out: LeftOut) -> None:
    """Count a member that belongs to no sample."""
    content = scanned.contents[clean]
    if clean in scanned.linked:
        return  # counted under the name of the link
    if content.reason.startswith("a link"):  # to a folder, most likely
        left_out.add("links in shards", f"{shard}:{clean}", "store what they lead to (tar -h)")
    elif not content.reason and not is_document(clean.rpartition("/")[2]):
        left_out.add(what, f"{shard}:{clean}", remedy_for(clean))


def two_files(path: Path, name: str, extension: str) -> str:
    return f"{shown(path)}: sample {shown(name)!r} holds two files .{extension}; remove one"


def in_two(name: str, path: Readable, other: Readable) -> str:
    return f"sample {shown(name)!r} is in both {shown(path)} and {shown(other)}; remove one"

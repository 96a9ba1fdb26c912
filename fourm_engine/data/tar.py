"""Tar shards with random access: one pass over the headers, then members are read by their offsets."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourm_engine.data.folder import MAX_FILE_BYTES, Listing
from fourm_engine.data.names import LeftOut, compression, is_document, plain, shown, split, wrapping
from fourm_engine.data.tar_members import Content, read_members
from fourm_plugins.errors import SampleError

#: Open shards a source and process; more are closed and opened again as needed.
MAX_OPEN_SHARDS = 64


class TarSource:
    """`folder/**/*.tar`, each read as if it was unpacked where it lies.

    Raises ValueError, naming the shard, for one that is truncated or no tar file, that holds a path out of the archive
    (absolute, or with `..`), or a sample that another shard holds too. A member that is no regular file, nor a link to
    one in the same shard, or is too large, is the error of its sample alone, when that is read."""

    def __init__(
        self,
        folder: Path,
        extensions: Sequence[str],
        *,
        max_bytes: int = MAX_FILE_BYTES,
        listing: Listing | None = None,
    ) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        listing = listing or Listing(folder, extensions)
        self._shards = listing.shards
        self._stamps: list[tuple[int, int]] = []
        self._index: dict[str, tuple[int, dict[str, Content]]] = {}  # name -> (shard, by extension)
        left_out, self.notes = LeftOut(), listing.notes
        for shard in range(len(self._shards)):
            self._scan(shard, extensions, left_out)
        self.notes += [f"{shown(self.folder)}: {line}" for line in left_out.lines()]
        self.names = sorted(self._index)
        if not self.names and not listing.files:
            raise ValueError(listing.nothing_found(self.notes))
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> file descriptor

    def _scan(self, shard: int, extensions: Sequence[str], left_out: LeftOut) -> None:
        path = self.folder / self._shards[shard]
        if not path.is_file():  # a pipe would be waited for
            raise ValueError(f"{shown(path)}: no regular file; remove it")
        try:
            with open(path, "rb") as file:
                self._stamps.append(_stamp(file.fileno()))
                if kind := compression(file.read(8)):
                    raise ValueError(
                        f"{shown(path)}: no tar file but compressed by {kind}, whatever its name says; unpack it where "
                        f"it lies, or store a plain tar file, which can be read anywhere without unpacking"
                    )
        except OSError as error:
            raise ValueError(f"{shown(path)}: cannot be read: {error.strerror}") from None
        contents, samples, linked = read_members(path, self.max_bytes)
        found: dict[tuple[str, str], Content] = {}
        for clean in samples:
            key = split(clean, extensions)
            content = contents[clean]
            if key is None:
                if clean in linked:
                    continue  # under the name of the link
                if content.reason.startswith("a link"):  # to a folder, most likely
                    left_out.add(
                        "links in shards", f"{self._shards[shard]}:{clean}", "store what they lead to (tar -h)"
                    )
                elif not content.reason and not is_document(clean.rpartition("/")[2]):
                    what = f"files in shards that are no {', '.join('.' + e for e in extensions)}"
                    left_out.add(what, f"{self._shards[shard]}:{clean}")
                continue
            if key in found:
                raise ValueError(f"{shown(path)}: sample {shown(key[0])!r} holds two files .{key[1]}; remove one")
            found[key] = content
        self._add(shard, found)

    def _add(self, shard: int, found: dict[tuple[str, str], Content]) -> None:
        path, inside = self.folder / self._shards[shard], plain(self._shards[shard]).rpartition("/")
        wrapped = wrapping([name for name, _ in found], shown(self.folder.name))
        if wrapped:
            self.notes.append(f"{shown(path)}: all files lie in {wrapped} inside; their names are what follows it")
        for (name, extension), content in found.items():
            name = inside[0] + inside[1] + name[len(wrapped) :]
            first, files = self._index.setdefault(name, (shard, {}))
            if first != shard:
                other = shown(self.folder / self._shards[first])
                raise ValueError(f"sample {shown(name)!r} is in both {other} and {shown(path)}; remove one")
            files[extension] = content

    def shards(self) -> dict[str, list[str]]:
        """Path of each shard below the folder -> its samples, both sorted."""
        shards: dict[str, list[str]] = {shard: [] for shard in self._shards}
        for name in self.names:
            shards[self._shards[self._index[name][0]]].append(name)
        return shards

    def files(self, name: str) -> dict[str, bytes]:
        shard, files = self._index[name]
        return {extension: self._read(shard, content) for extension, content in files.items()}

    def _read(self, shard: int, content: Content) -> bytes:
        if content.reason:
            raise SampleError(content.reason)
        stored = content.size if content.parts is None else sum(number for _, number in content.parts)
        try:
            descriptor = self._descriptor(shard)
            if _stamp(descriptor) != self._stamps[shard]:  # its members may lie elsewhere
                raise SampleError("the shard has changed since this run began; start it again")
            # pread has no file position that processes forked from this one could disturb.
            data = os.pread(descriptor, stored, content.offset)
        except OSError as error:
            raise SampleError(f"the shard cannot be read: {error.strerror}") from None
        if len(data) != stored:
            raise SampleError(f"only {len(data)} of {stored} bytes left; the shard has shrunk")
        if content.parts is None:
            return data
        whole, start = bytearray(content.size), 0
        for offset, number in content.parts:
            whole[offset : offset + number] = data[start : start + number]
            start += number
        return bytes(whole)

    def where(self, name: str) -> str:
        shard, files = self._index[name]
        path = self.folder / self._shards[shard]
        return ", ".join(f"{shown(path)}:{shown(content.member)}" for content in files.values())

    def stamp(self, name: str) -> str:
        shard, files = self._index[name]
        try:
            found = os.stat(self.folder / self._shards[shard])
        except OSError:
            return ""
        members = (f"{extension}:{content.offset}:{content.size}" for extension, content in sorted(files.items()))
        return ";".join((f"{found.st_size}:{found.st_mtime_ns}", *members))

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = os.open(self.folder / self._shards[shard], os.O_RDONLY | os.O_NONBLOCK)
        self._open.move_to_end(shard)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns

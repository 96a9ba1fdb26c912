"""Tar shards with random access: one pass over the headers, then members are read by offset."""

from __future__ import annotations

import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fourm_engine.data.folder import MAX_FILE_BYTES, Listing, too_large
from fourm_engine.data.names import LeftOut, compression, is_document, is_litter, plain, shown, split, wrapping
from fourm_plugins.errors import SampleError

#: Open shards a source and process; more are closed and opened again as needed.
MAX_OPEN_SHARDS = 64
#: Bytes of a member's extended header, and characters of its name, which is all that it should hold.
MAX_HEADER_BYTES, MAX_NAME = 1 << 20, 1024
#: Links from member to member before the file.
MAX_LINKS = 40
_BLOCK = tarfile.BLOCKSIZE
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Content(NamedTuple):
    """Where the bytes of a member lie, or why they may not be read."""

    member: str
    offset: int = 0
    size: int = 0
    reason: str = ""
    #: (place in the file, bytes) of the parts of a sparse file that are stored, one after another.
    parts: tuple[tuple[int, int], ...] | None = None


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
        self._index: dict[str, tuple[int, dict[str, _Content]]] = {}  # name -> (shard, by extension)
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
        contents, samples, linked = self._members(path)
        found: dict[tuple[str, str], _Content] = {}
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

    def _add(self, shard: int, found: dict[tuple[str, str], _Content]) -> None:
        path, inside = self.folder / self._shards[shard], plain(self._shards[shard]).rpartition("/")
        wrapped = wrapping([name for name, _ in found], shown(self.folder.name))
        if wrapped:
            self.notes.append(f"{shown(path)}: all files lie in {wrapped} inside; their names are what follows it")
        for (name, extension), content in found.items():
            name = inside[0] + inside[1] + name[len(wrapped) :]
            first, files = self._index.setdefault(name, (shard, {}))
            if first != shard:
                other = shown(self.folder / self._shards[first])
                raise ValueError(f"sample {shown(name)!r} stands both in {other} and in {shown(path)}; remove one")
            files[extension] = content

    def _members(self, path: Path) -> tuple[dict[str, _Content], list[str], set[str]]:
        """Clean path -> content of the members of a shard; those that may be samples, in their order; those that links
        lead to."""
        contents: dict[str, _Content] = {}
        links: dict[str, tuple[str, str]] = {}  # clean path -> (that of what it links to, as it is written)
        samples, linked, end = list[str](), set[str](), 0
        for member, offset in _headers(path):
            end = offset
            clean = _clean(member.name, path)
            if member.isdir():
                continue
            if not is_litter(clean):
                samples.append(clean)
            if member.islnk() or member.issym():
                start = "" if member.islnk() else clean.rpartition("/")[0]
                links[clean] = _target(start, member.linkname), member.linkname
            else:
                contents[clean] = self._content(member)
        for clean, (_, written) in links.items():
            target, hops = clean, 0
            while target in links and hops < MAX_LINKS:
                target, hops = links[target][0], hops + 1
            linked.add(target)
            lost = _Content(clean, reason=f"a link to {shown(written)}, no regular file in this shard; store the file")
            contents[clean] = contents.get(target, lost)._replace(member=clean)
        with open(path, "rb") as file:
            file.seek(end)
            # Without its end marker a shard has lost members, however whole the last one looks.
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise ValueError(f"{shown(path)}: truncated, no end of archive at byte {end}; copy or make it again")
        return contents, samples, linked

    def _content(self, member: tarfile.TarInfo) -> _Content:
        if not (member.isreg() or member.issparse()):
            return _Content(member.name, reason="no regular file (a pipe or a device); store the file itself")
        if member.size > self.max_bytes:
            return _Content(member.name, reason=too_large(member.size, self.max_bytes))
        parts = None
        if member.issparse():
            stored: Any = member.sparse or ()
            parts = tuple((int(place), int(number)) for place, number in stored if number)
            if any(place < 0 or number < 0 or place + number > member.size for place, number in parts):
                return _Content(member.name, reason="a sparse file whose parts lie outside of it; store it again")
        return _Content(member.name, member.offset_data, member.size, parts=parts)

    def shards(self) -> dict[str, list[str]]:
        """Path of each shard below the folder -> its samples, both sorted."""
        shards: dict[str, list[str]] = {shard: [] for shard in self._shards}
        for name in self.names:
            shards[self._shards[self._index[name][0]]].append(name)
        return shards

    def files(self, name: str) -> dict[str, bytes]:
        shard, files = self._index[name]
        return {extension: self._read(shard, content) for extension, content in files.items()}

    def _read(self, shard: int, content: _Content) -> bytes:
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
        for place, number in content.parts:
            whole[place : place + number] = data[start : start + number]
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


class _Member(tarfile.TarInfo):
    """A header that is refused before what it announces is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _EXTENDED and member.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header announces {member.size} bytes")
        return member


def _headers(path: Path) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each member, and the offset at which the next header begins. Raises ValueError for what is no whole tar file."""
    size, end = path.stat().st_size, -1
    try:
        with tarfile.open(path, "r:", tarinfo=_Member, encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # what the caller keeps is all that is kept
                if member.isreg() and not member.issparse() and member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"unexpected end of data in {shown(member.name)!r}")
                if tar.offset <= end:
                    raise tarfile.ReadError(f"its members run backwards at {shown(member.name)!r}")
                end = tar.offset
                yield member, end
    except OSError as error:
        raise ValueError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    except Exception as error:  # tarfile raises IndexError, ValueError and more on headers that lie
        raise ValueError(f"{shown(path)}: truncated or no tar file ({error}); copy or make it again") from None


def _clean(name: str, path: Path) -> str:
    """A member's path below the shard. Raises ValueError where that is outside, or no path."""
    parts = name.split("/")
    if len(name) > MAX_NAME:
        raise ValueError(f"{shown(path)}: member {shown(name)!r} has no name for a file; do not use this file")
    if name.startswith("/") or ".." in parts:
        raise ValueError(f"{shown(path)}: member {shown(name)!r} points out of the archive; do not use this file")
    return "/".join(part for part in parts if part not in ("", "."))


def _target(start: str, link: str) -> str:
    """What a link in the folder `start` leads to, as a clean path; '' for what is outside of the shard."""
    if link.startswith("/"):
        return ""
    parts = start.split("/") if start else []
    for part in link.split("/"):
        if part == ".." and not parts:
            return ""
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns

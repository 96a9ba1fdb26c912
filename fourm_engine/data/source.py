"""Where the files of one modality come from: a folder of files, or tar shards with random access.

In: `root/<source>/`. Out: a `Source`: sorted sample names and, by name, {extension: content}. The name of a sample is
its path below the folder (its member's name in a shard) without the extension, so that modalities match by name.

Nothing is extracted to disk. Only regular files and members of bounded size are read.
"""

from __future__ import annotations

import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from fourm_plugins.modality import SampleError

MAX_FILE_BYTES = 64 << 20
#: Open shards a source and process; more are closed and opened again as needed.
MAX_OPEN_SHARDS = 64
#: Bytes of a member's extended header, and characters of its name, which is all that it should hold.
MAX_HEADER_BYTES, MAX_NAME = 1 << 20, 1024
_BLOCK = tarfile.BLOCKSIZE
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class Source(Protocol):
    """Picklable; safe to use after a fork."""

    names: list[str]  # sorted

    def files(self, name: str) -> dict[str, bytes]:
        """The files of a sample, {extension without dot: content}. Raises SampleError for what may not be read."""

    def where(self, name: str) -> str:
        """Path, or shard:member, for messages."""

    def stamp(self, name: str) -> str:
        """Sizes and times of the files of a sample: another one where they may have changed. '' where they are gone."""


def open_source(
    root: Path, source: str, extensions: Sequence[str], *, max_bytes: int = MAX_FILE_BYTES
) -> FolderSource | TarSource | None:
    """The source in `root/source`; None where there is no such folder.

    Raises ValueError for a folder that holds none of the extensions, and for shards that cannot be trusted."""
    folder = Path(root) / source
    if not folder.is_dir():
        return None
    kind = TarSource if any(folder.glob("*.tar")) else FolderSource
    return kind(folder, extensions, max_bytes=max_bytes)


class FolderSource:
    """`folder/<any sub-folders>/<sample>.<ext>`. Hidden files are ignored, and so are other extensions."""

    def __init__(self, folder: Path, extensions: Sequence[str], *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._files: dict[str, dict[str, str]] = {}  # name -> {extension: path below the folder}
        for parent, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                path = os.path.relpath(os.path.join(parent, file), self.folder).replace(os.sep, "/")
                if file.startswith(".") or (key := _split(path, extensions)) is None:
                    continue
                other = self._files.setdefault(key[0], {}).setdefault(key[1], path)
                if other != path:
                    raise ValueError(f"{self.folder}: {other} and {path} are one sample twice; remove one")
        self.names = sorted(self._files)
        _check_not_empty(self.names, self.folder, extensions)

    def files(self, name: str) -> dict[str, bytes]:
        return {extension: self._read(path) for extension, path in self._files[name].items()}

    def _read(self, path: str) -> bytes:
        full = self.folder / path
        if not full.is_file():  # a pipe would be waited for
            raise SampleError("no regular file, or no longer there")
        try:
            with open(full, "rb") as file:
                content = file.read(self.max_bytes + 1)
        except OSError as error:
            raise SampleError(f"cannot be read: {error.strerror}") from None
        if len(content) > self.max_bytes:
            raise SampleError(_too_large(os.path.getsize(full), self.max_bytes))
        return content

    def where(self, name: str) -> str:
        return ", ".join(str(self.folder / path) for path in self._files[name].values())

    def stamp(self, name: str) -> str:
        try:
            found = {extension: os.stat(self.folder / path) for extension, path in sorted(self._files[name].items())}
        except OSError:
            return ""
        return ";".join(f"{extension}:{s.st_size}:{s.st_mtime_ns}" for extension, s in found.items())


class TarSource:
    """`folder/*.tar`, indexed by one pass over the headers; members are then read by offset.

    Raises ValueError, naming the shard, for one that is truncated or no tar file, that holds a path out of the archive
    (absolute, or with `..`), or a sample that another shard holds too. A member that is no regular file, or too large,
    is the error of its sample alone, when that is read."""

    def __init__(self, folder: Path, extensions: Sequence[str], *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._shards = sorted(path.name for path in self.folder.glob("*.tar"))
        # name -> (shard, {extension: (offset, size, member, reason why it may not be read)})
        self._index: dict[str, tuple[int, dict[str, tuple[int, int, str, str]]]] = {}
        for shard in range(len(self._shards)):
            self._scan(shard, extensions)
        self.names = sorted(self._index)
        _check_not_empty(self.names, self.folder, extensions)
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> file descriptor

    def _scan(self, shard: int, extensions: Sequence[str]) -> None:
        path = self.folder / self._shards[shard]
        if not path.is_file():  # a pipe would be waited for
            raise ValueError(f"{path}: no regular file; remove it")
        end = 0
        for member, offset in _members(path):
            self._add(shard, member, extensions)
            end = offset
        with open(path, "rb") as file:
            file.seek(end)
            # Without its end marker a shard has lost members, however whole the last one looks.
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise ValueError(f"{path}: truncated, no end of archive at byte {end}; copy or make it again")

    def _add(self, shard: int, member: tarfile.TarInfo, extensions: Sequence[str]) -> None:
        path = self.folder / self._shards[shard]
        if len(member.name) > MAX_NAME or not member.name.isprintable():
            raise ValueError(f"{path}: member {member.name!r:.100} has no name for a file; do not use this file")
        parts = member.name.split("/")
        if member.name.startswith("/") or ".." in parts:
            raise ValueError(f"{path}: member {member.name!r} points out of the archive; do not use this file")
        clean = "/".join(part for part in parts if part not in ("", "."))
        if member.isdir() or (key := _split(clean, extensions)) is None or clean.rpartition("/")[2].startswith("."):
            return
        reason = ""
        if not member.isreg() or member.issparse():
            reason = "no regular file (a link, a device or sparse); store the file itself"
        elif member.size > self.max_bytes:
            reason = _too_large(member.size, self.max_bytes)
        name, extension = key
        first, files = self._index.setdefault(name, (shard, {}))
        if first != shard:
            raise ValueError(
                f"sample {name!r} stands both in {self.folder / self._shards[first]} and in {path}; remove one"
            )
        if extension in files:
            raise ValueError(f"{path}: sample {name!r} holds two files .{extension}; remove one")
        files[extension] = (member.offset_data, member.size, member.name, reason)

    def shards(self) -> dict[str, list[str]]:
        """File name of each shard -> its samples, both sorted."""
        shards: dict[str, list[str]] = {shard: [] for shard in self._shards}
        for name in self.names:
            shards[self._shards[self._index[name][0]]].append(name)
        return shards

    def files(self, name: str) -> dict[str, bytes]:
        shard, files = self._index[name]
        contents = {}
        for extension, (offset, size, _, reason) in files.items():
            if reason:
                raise SampleError(reason)
            # pread has no file position that processes forked from this one could disturb.
            contents[extension] = os.pread(self._descriptor(shard), size, offset)
            if len(contents[extension]) != size:
                raise SampleError(f"only {len(contents[extension])} of {size} bytes left; the shard has shrunk")
        return contents

    def where(self, name: str) -> str:
        shard, files = self._index[name]
        return ", ".join(f"{self.folder / self._shards[shard]}:{member}" for _, _, member, _ in files.values())

    def stamp(self, name: str) -> str:
        shard, files = self._index[name]
        try:
            found = os.stat(self.folder / self._shards[shard])
        except OSError:
            return ""
        members = (f"{extension}:{offset}:{size}" for extension, (offset, size, *_) in sorted(files.items()))
        return ";".join((f"{found.st_size}:{found.st_mtime_ns}", *members))

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = os.open(self.folder / self._shards[shard], os.O_RDONLY)
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


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each member, and the offset at which the next header begins. Raises ValueError for what is no whole tar file."""
    size, end = path.stat().st_size, -1
    try:
        with tarfile.open(path, "r:", tarinfo=_Member) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # what the caller keeps is all that is kept
                if member.isreg() and member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"unexpected end of data in {member.name!r:.100}")
                if tar.offset <= end:
                    raise tarfile.ReadError(f"its members run backwards at {member.name!r:.100}")
                end = tar.offset
                yield member, end
    except Exception as error:  # tarfile raises IndexError, ValueError and more on headers that lie
        raise ValueError(f"{path}: truncated or no tar file ({error}); copy or make it again") from None


def _split(path: str, extensions: Sequence[str]) -> tuple[str, str] | None:
    """(name, extension) of a path with one of the extensions, the longest that fits; None for any other."""
    lowered = path.lower()
    for extension in sorted(extensions, key=len, reverse=True):
        if lowered.endswith("." + extension.lower()):
            return path[: -len(extension) - 1], extension
    return None


def _check_not_empty(names: list[str], folder: Path, extensions: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"{folder}: no file with extension {', '.join(extensions)}, neither loose nor in *.tar")


def _too_large(size: int, limit: int) -> str:
    return f"{size} bytes, more than the {limit} allowed; raise data.max_file_mb if this is meant"

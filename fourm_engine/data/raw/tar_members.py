"""Members of a tar shard and the offsets of their bytes, from one pass over untrusted headers."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fourm_engine.data.raw.names import is_litter, shown

#: Maximum size in bytes of a member's extended header, and of its name in characters.
MAX_HEADER_BYTES, MAX_NAME = 1 << 20, 1024
#: Maximum length of a chain of links to a file.
MAX_LINKS = 40
BLOCK = tarfile.BLOCKSIZE
#: Number of bytes to examine after the end of the archive: more than tar uses for padding.
_REST = 1 << 20
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class Content(NamedTuple):
    """The location of a member's bytes, or the reason why it cannot be read."""

    member: str
    offset: int = 0
    size: int = 0
    reason: str = ""
    #: (offset in the file, bytes) of the parts of a sparse file that are stored, one after another.
    parts: tuple[tuple[int, int], ...] | None = None
    #: Index of the member in the shard, from 0.
    row: int = 0
    #: CRC-32 of the header block before the bytes, which names the member; 0 if another block is there.
    header: int = 0


def read_members(path: Path) -> tuple[dict[str, Content], list[str], set[str]]:
    """(clean path -> content of all members, clean paths that may be samples, in order, those that links point to) of a
    shard. Raises ValueError for a shard that is truncated, not a tar file, or has paths outside itself."""
    contents: dict[str, Content] = {}
    links: dict[str, tuple[str, str]] = {}  # clean path -> (clean path of the link's target, and as written)
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
            contents[clean] = _content(member)
    for clean, (_, written) in links.items():
        target, hops = clean, 0
        while target in links and hops < MAX_LINKS:
            target, hops = links[target][0], hops + 1
        linked.add(target)
        lost = Content(clean, reason=f"a link to {shown(written)}, no regular file in this shard; store the file")
        contents[clean] = contents.get(target, lost)._replace(member=clean)
    contents = {clean: content._replace(row=row) for row, (clean, content) in enumerate(contents.items())}
    with open(path, "rb") as file:
        file.seek(end)
        # Without its end marker a shard is truncated, even if the last member is complete.
        if file.read(BLOCK) != bytes(BLOCK):
            raise ValueError(f"{shown(path)}: truncated, no end of archive at byte {end}; copy or make it again")
        if file.read(_REST).strip(b"\0"):
            raise ValueError(
                f"{shown(path)}: goes on after its end of archive at byte {end}, where no reader looks; if it is two "
                f"tars, one after the other, store them as two files"
            )
    return contents, samples, linked


def _content(member: tarfile.TarInfo) -> Content:
    if not (member.isreg() or member.issparse()):
        return Content(member.name, reason="no regular file (a pipe or a device); store the file itself")
    parts = None
    if member.issparse():
        stored: Any = member.sparse or ()
        parts = tuple((int(offset), int(number)) for offset, number in stored if number)
        if any(offset < 0 or number < 0 or offset + number > member.size for offset, number in parts):
            return Content(member.name, reason="a sparse file whose parts lie outside of it; store it again")
    header = member.header if isinstance(member, _Member) and parts is None else 0
    return Content(member.name, member.offset_data, member.size, parts=parts, header=header)


class _Member(tarfile.TarInfo):
    """A tar header that is validated before any content is read."""

    header = 0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _EXTENDED and member.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header announces {member.size} bytes")
        member.header = zlib.crc32(buf)
        return member


def _headers(path: Path) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each member, and the offset of the next header. Raises ValueError for an incomplete or invalid tar file."""
    size, end = path.stat().st_size, -1
    try:
        with tarfile.open(path, "r:", tarinfo=_Member, encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # otherwise all headers would stay in memory
                if member.isreg() and not member.issparse() and member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"unexpected end of data in {shown(member.name)!r}")
                if tar.offset <= end:
                    raise tarfile.ReadError(f"its members run backwards at {shown(member.name)!r}")
                end = tar.offset
                yield member, end
    except OSError as error:
        raise ValueError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    except Exception as error:  # tarfile raises IndexError, ValueError and more on corrupt headers
        raise ValueError(f"{shown(path)}: truncated or no tar file ({error}); copy or make it again") from None


def _clean(name: str, path: Path) -> str:
    """A member's clean path. Raises ValueError if it leaves the shard or is no path."""
    parts = name.split("/")
    if len(name) > MAX_NAME:
        raise ValueError(f"{shown(path)}: member {shown(name)!r} has no name for a file; do not use this file")
    if name.startswith("/") or ".." in parts:
        raise ValueError(f"{shown(path)}: member {shown(name)!r} points out of the archive; do not use this file")
    return "/".join(part for part in parts if part not in ("", "."))


def _target(start: str, link: str) -> str:
    """The target of a link in the folder `start`, as a clean path; '' if it is outside the shard."""
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

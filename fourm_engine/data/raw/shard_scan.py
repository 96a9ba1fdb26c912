"""The contents of a tar shard, from one pass over its headers: as objects to parse, and as arrays to store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fourm_engine.data.names_table import ENCODING, joined
from fourm_engine.data.raw.file_bytes import Stamp, stamp_of
from fourm_engine.data.raw.names import compression, shown
from fourm_engine.data.raw.tar_members import Content, read_members

_SAMPLE, _LINKED, _TWICE = 1, 2, 4


class Scanned(NamedTuple):
    """The members of a shard; see `read_members`."""

    stamp: Stamp
    contents: dict[str, Content]
    samples: list[str]
    linked: set[str]


Scan = Callable[[Path], Scanned]


def scan(path: Path) -> Scanned:
    """Raises ValueError, naming the shard, for one that cannot be used."""
    if not path.is_file():  # a pipe would block
        raise ValueError(f"{shown(path)}: no regular file; remove it")
    try:
        with open(path, "rb") as file:
            stamp = stamp_of(file.fileno())
            if kind := compression(file.read(8)):
                raise ValueError(
                    f"{shown(path)}: no tar file but compressed by {kind}, whatever its name says; unpack it where "
                    f"it lies, or store a plain tar file, which can be read anywhere without unpacking"
                )
    except OSError as error:
        raise ValueError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    return Scanned(stamp, *read_members(path))


class Block(NamedTuple):
    """The members of a shard as arrays, one row per member."""

    stamp: Stamp
    offsets: np.ndarray  # (n + 1,), start of each member's path in `paths`
    paths: np.ndarray  # uint8, UTF-8
    starts: np.ndarray  # int64 (n,), start of the contents in the shard
    sizes: np.ndarray  # int64 (n,)
    flags: np.ndarray  # uint8 (n,)
    headers: np.ndarray  # uint32 (n,), see `Content`
    #: Row -> [reason, parts] of the few that have one.
    odd: dict[int, list[Any]]

    @classmethod
    def build(cls, scanned: Scanned) -> Block:
        contents = scanned.contents
        encoded = [clean.encode(*ENCODING) for clean in contents]
        flags = np.zeros(len(encoded), np.uint8)
        for clean in scanned.samples:
            row = contents[clean].row
            flags[row] |= _TWICE if flags[row] & _SAMPLE else _SAMPLE
        for clean in scanned.linked & contents.keys():
            flags[contents[clean].row] |= _LINKED
        return cls(
            scanned.stamp,
            *joined(encoded),
            np.fromiter((content.offset for content in contents.values()), np.int64, len(encoded)),
            np.fromiter((content.size for content in contents.values()), np.int64, len(encoded)),
            flags,
            np.fromiter((content.header for content in contents.values()), np.uint32, len(encoded)),
            {c.row: [c.reason, c.parts] for c in contents.values() if c.reason or c.parts is not None},
        )

    def scanned(self) -> Scanned:
        """Inverse of `build`, except for the spelling of members in messages."""
        contents: dict[str, Content] = {}
        samples, linked = list[str](), set[str]()
        ends, blob = self.offsets.tolist(), self.paths.tobytes()
        columns = zip(self.starts.tolist(), self.sizes.tolist(), self.flags.tolist(), self.headers.tolist())
        for row, (start, size, flags, header) in enumerate(columns):
            clean = blob[ends[row] - ends[0] : ends[row + 1] - ends[0]].decode(*ENCODING)
            contents[clean] = content(clean, start, size, row, header, self.odd.get(row))
            samples += [clean] * ((flags & _SAMPLE > 0) + (flags & _TWICE > 0))
            if flags & _LINKED:
                linked.add(clean)
        return Scanned(self.stamp, contents, samples, linked)


def content(member: str, start: int, size: int, row: int, header: int, odd: list[Any] | None) -> Content:
    """The content of a member from its columns."""
    reason, parts = odd if odd is not None else ("", None)
    return Content(member, start, size, str(reason), parts and tuple((int(a), int(b)) for a, b in parts), row, header)

"""Reads files, and members of tar shards by their offsets. All sources of a process share a few open shards."""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict, deque
from pathlib import Path

from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.tar_members import BLOCK, Content
from fourm_engine.files import check_shortage
from fourm_engine.storage.errors import Missing
from fourm_engine.storage.location import Location, Readable
from fourm_engine.storage.remote import OpenFile
from fourm_plugins.errors import SampleError

#: Maximum size of a file, unless data.max_file_mb is set.
MAX_FILE_BYTES = 64 << 20
#: Maximum number of open shards of a process, over all sources; others are closed and reopened as needed.
MAX_OPEN_SHARDS = 64
Stamp = tuple[int, int]  # size in bytes, time of the last change in ns
_open: OrderedDict[Path, int] = OrderedDict()  # file descriptors, the most recently used last
#: Maximum number of open remote shards, whose copies stay in the cache while they are open.
MAX_OPEN_REMOTE = 16
_open_remote: OrderedDict[str, OpenFile] = OrderedDict()
_lock = threading.Lock()
#: Folders whose shards are to be closed once the lock is free.
_given_up: deque[Readable] = deque()


def _unlock() -> None:
    """Replace the lock after a fork, since a thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


def stamp_of(file: int | Path) -> Stamp:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def read_file(path: Readable, max_bytes: int) -> bytes:
    """The content of a regular file. Raises SampleError, and StoreError for a remote one that cannot be read."""
    if isinstance(path, Location):
        try:
            return path.read_bytes(max_bytes)
        except Missing:
            raise SampleError("no longer there") from None
    try:
        if not path.is_file():  # a pipe would block
            if path.is_symlink():
                raise SampleError(f"a link to {shown(os.readlink(path))}, where there is no regular file")
            raise SampleError("no regular file, or no longer there")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(max_bytes + 1)
    except OSError as error:
        check_shortage(error)
        raise SampleError(f"cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise SampleError(too_large(size, max_bytes))
    return content


def too_large(size: int, limit: int) -> str:
    return f"{size} bytes, more than the {limit} allowed; raise data.max_file_mb if this is meant"


def read_member(path: Readable, stamp: Stamp, content: Content, max_bytes: int) -> bytes:
    """The content of a member of the shard `path`, whose size and time were `stamp`. Raises SampleError, and
    StoreError for a remote shard that cannot be read."""
    if content.reason:
        raise SampleError(content.reason)
    if content.size > max_bytes:
        raise SampleError(too_large(content.size, max_bytes))
    stored = content.size if content.parts is None else sum(number for _, number in content.parts)
    front = BLOCK if content.header else 0  # the header detects a different shard of the same size
    try:
        with _lock:  # or another thread may close it
            _close_given_up()
            if isinstance(path, Location):
                data = _remote_file(path, stamp).read(content.offset - front, front + stored)
            else:
                # pread uses no file position, which forked processes would share.
                data = os.pread(_descriptor(path, stamp), front + stored, content.offset - front)
    except OSError as error:
        check_shortage(error)
        raise SampleError(f"the shard cannot be read: {error.strerror}") from None
    except OverflowError as error:
        raise SampleError(f"lies outside of all files ({error}); remove the folder _index of the data") from None
    if len(data) != front + stored:
        raise SampleError(f"only {max(0, len(data) - front)} of {stored} bytes left; the shard has shrunk")
    if front:
        if zlib.crc32(data[:front]) != content.header:
            raise SampleError(
                "the shard holds something else than when it was read first, and has the same size and time; remove "
                "the folder _index of the data, if there is one, and start again"
            )
        data = data[front:]
    if content.parts is None:
        return data
    whole, start = bytearray(content.size), 0
    for offset, number in content.parts:
        whole[offset : offset + number] = data[start : start + number]
        start += number
    return bytes(whole)


def close_below(folder: Readable) -> None:
    """Close a folder's shards when one of its sources is garbage-collected, so that its disk can be unmounted. A shard
    that is still in use is reopened.

    Never blocks: garbage collection can run at any time, also in a thread that is reading and holds the lock."""
    _given_up.append(folder)
    lock = _lock
    if lock.acquire(blocking=False):
        try:
            _close_given_up()
        finally:
            lock.release()


def _close_given_up() -> None:
    while _given_up:
        folder = _given_up.popleft()
        for path in [path for path in _open if isinstance(folder, Path) and path.is_relative_to(folder)]:
            os.close(_open.pop(path))


def _remote_file(path: Location, stamp: Stamp) -> OpenFile:
    url = str(path)
    if url not in _open_remote:
        while len(_open_remote) >= MAX_OPEN_REMOTE:
            _open_remote.popitem(last=False)[1].close()
        _open_remote[url] = path.open(stamp[0])
    _open_remote.move_to_end(url)
    return _open_remote[url]


def _descriptor(path: Path, stamp: Stamp) -> int:
    """Check that a shard is unchanged. Raises SampleError otherwise, since offsets of members may have moved."""
    if path in _open and stamp_of(_open[path]) != stamp:
        os.close(_open.pop(path))  # a source opened later may know the new version
    if path not in _open:
        while len(_open) >= MAX_OPEN_SHARDS:
            os.close(_open.popitem(last=False)[1])
        _open[path] = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if stamp_of(_open[path]) != stamp:
            raise SampleError("the shard has changed since this run began; start it again")
    _open.move_to_end(path)
    return _open[path]

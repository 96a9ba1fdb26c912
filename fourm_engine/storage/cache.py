"""Copies of remote files in a folder of bounded size, shared by all processes of a machine.

A copy is locked (`flock`) for reading by each process that has it open, and for writing by the one that creates it: a
copy in use is never evicted, a file is downloaded once, and a killed process leaves no lock. A copy is written as
`<name>.part` and renamed when complete.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fourm_engine.files import lock_file
from fourm_plugins.notes import ALONE

log = logging.getLogger(__name__)
#: Only files with such names are counted and removed; the folder may contain others.
_NAME = re.compile(r"^[\w.-]{1,80}-[0-9a-f]{32}\.(copy|part)$")
_GATE = ".fourm-cache-lock"
#: Initial and maximum polling interval in seconds while another process creates a copy.
_FIRST_POLL, _POLL = 0.001, 0.05
#: With more files than this, counting them is slow.
_MANY = 64
_warned: set[str] = set()
#: Open copies of this process.
_handles: set[int] = set()


def copy_name(url: str, size: int, version: str) -> str:
    """The name of a file's copy, unique to its content."""
    stem = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2], flags=re.ASCII)[-80:] or "file"
    return f"{stem}-{hashlib.blake2b(repr((url, size, version)).encode(), digest_size=16).hexdigest()}.copy"


class ShardCache:
    """At most `max_bytes` in `folder`; evicts the least recently used first. Picklable; safe to use after a fork."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._counted_by = 0  # process
        #: Why the last file has no copy, and the remedy.
        self.trouble = "data.remote.cache_gb is 0; set it"

    def open(
        self, name: str, size: int, fill: Callable[..., None], *, patience: float, wait: bool = True
    ) -> int | None:
        """A descriptor of the copy, to be closed by the caller; until then the copy is kept."""
        if size > self.max_bytes:
            if self.max_bytes:
                self._warn(f"a shard of {size / 2**20:.1f} MiB is larger than data.remote.cache_gb allows; raise it")
            return None
        try:
            return self._open(name, size, fill, patience, wait)
        except OSError as error:
            if isinstance(error, _NoRoom):
                self._warn(str(error))
            else:
                self._warn(f"cannot be written: {error.strerror or error}; set data.remote.cache to another folder")
            return None

    def _open(self, name: str, size: int, fill: Callable[..., None], patience: float, wait: bool) -> int | None:
        started, poll = time.monotonic(), _FIRST_POLL
        while True:
            if (copy := self._whole(name, size)) is not None:
                return copy
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f"{name.removesuffix('.copy')}.part"
            handle = _open_file(part, os.O_RDWR | os.O_CREAT)
            try:
                if _try_lock(handle) and _is_at(handle, part):
                    if (copy := self._whole(name, size)) is not None:  # created since the check
                        part.unlink()
                        close(handle)
                        return copy
                    left = max(0.0, patience - (time.monotonic() - started))
                    self._fill(handle, part, size, partial(fill, patience=left))
                    return handle
            except BaseException:
                close(handle)
                raise
            close(handle)
            if not wait:
                return None
            time.sleep(poll)
            poll = min(2 * poll, _POLL)

    def _whole(self, name: str, size: int) -> int | None:
        path = self.folder / name
        while True:
            try:
                handle = _open_file(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            lock_file(handle, fcntl.LOCK_SH)
            if _is_at(handle, path):
                if os.fstat(handle).st_size == size:
                    with suppress(OSError):  # a cache that is read-only for this process
                        os.utime(handle)
                    return handle
                path.unlink()
            close(handle)  # truncated, or evicted just now

    def _fill(self, handle: int, part: Path, size: int, fill: Callable[[BinaryIO], None]) -> None:
        """Create the copy in the locked file `part`, and rename it. A failure leaves nothing behind."""
        try:
            for last in (False, True):
                try:
                    self._reserve(handle, size, full=last)
                    with open(part, "r+b") as file:
                        fill(file)
                    os.fsync(handle)
                    break
                except OSError as error:
                    if last or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
            os.rename(part, part.with_suffix(".copy"))
            lock_file(handle, fcntl.LOCK_SH)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise

    def _reserve(self, handle: int, size: int, *, full: bool) -> None:
        """Allocate the size of the file, which counts from now on. `full`: the disk is full, so that much must be
        freed. Raises _NoRoom."""
        with self._gate() as gate:
            os.ftruncate(handle, 0)
            # An upper bound on the bytes of all files: removals are not subtracted. Each process counts only once,
            # since it is slow.
            known = os.pread(gate, 20, 0)
            total = int(known) if known.isdigit() and self._counted_by == os.getpid() else self.max_bytes
            if full or total + size > self.max_bytes:
                total = self._make_room(size, full=full)
            self._counted_by = os.getpid()
            os.pwrite(gate, b"%020d" % (total + size), 0)
            os.ftruncate(handle, size)

    def _make_room(self, size: int, *, full: bool) -> int:
        """Evict enough for `size` bytes, and a little more if there are many files, so that the next call need not
        count. Returns the remaining bytes. Raises _NoRoom."""
        used = sorted(self._files())
        total = sum(held for _, held, _ in used)
        allowed = min(self.max_bytes, total if full else self.max_bytes)
        wish = allowed - (self.max_bytes // 16 if len(used) > _MANY and total + size > allowed else 0)
        for _, held, path in used:
            if total + size <= wish:
                break
            if _remove(path):
                total -= held
        if total + size > allowed:
            full_disk = "the disk is full; free space, or set data.remote.cache to another folder"
            raise _NoRoom(full_disk if full else "all that it may hold is in use; raise data.remote.cache_gb")
        return total

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """(time of the last use, bytes, path) of each file."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _NAME.match(entry.name):
                    with suppress(FileNotFoundError):
                        yield (status := entry.stat()).st_mtime_ns, status.st_size, entry.path

    @contextmanager
    def _gate(self) -> Iterator[int]:
        """Lets one process at a time count and evict. Yields the file that stores the total."""
        handle = _open_file(self.folder / _GATE, os.O_RDWR | os.O_CREAT)
        try:
            lock_file(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            close(handle)

    def _warn(self, why: str) -> None:
        self.trouble = f"{self.folder}: {why}"
        line = f"{self.trouble}; remote data is read without a copy, which is slow"
        if line not in _warned:
            _warned.add(line)
            log.warning("%s", line, extra=ALONE)


class _NoRoom(OSError):
    """There is no space for another copy, or no way to share it."""


def close(handle: int) -> None:
    """Close a descriptor from `ShardCache.open`."""
    if handle in _handles:
        _handles.discard(handle)
        os.close(handle)


def _open_file(path: Path | str, flags: int) -> int:
    handle = os.open(path, flags | os.O_CLOEXEC, 0o644)
    _handles.add(handle)
    return handle


def _forget() -> None:
    """A forked child, such as a data-loader worker, must not hold its parent's copies: they could never be evicted."""
    for handle in _handles:
        with suppress(OSError):
            os.close(handle)
    _handles.clear()


os.register_at_fork(after_in_child=_forget)


def _try_lock(handle: int) -> bool:
    try:
        if not lock_file(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise _NoRoom("its file system has no locks (flock); set data.remote.cache to a folder on a local disk")
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at that path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _remove(path: str) -> bool:
    """Remove a copy, or a killed process's partial one, unless it is in use."""
    try:
        handle = _open_file(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if not _try_lock(handle):
            return False
        os.unlink(path)
        return True
    except OSError:
        return False
    finally:
        close(handle)

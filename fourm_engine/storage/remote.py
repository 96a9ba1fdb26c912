"""The files of one remote store: their facts, their copies, and ranges of those without a copy."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from fourm_engine.storage.cache import ShardCache, close, copy_name
from fourm_engine.storage.config import RemoteConfig
from fourm_engine.storage.errors import Changed, NoRanges, StoreError
from fourm_engine.storage.read_ahead import ReadAhead
from fourm_engine.storage.store import Facts, Store
from fourm_engine.storage.url import Url

#: Size in bytes of a range, read if there is no copy, and number of ranges that a process caches.
BLOCK, KEPT_BLOCKS = 1 << 20, 64
#: Number of copies whose paths were returned that are not yet evicted: time for their readers to open them.
KEPT_PATHS = 8
#: Maximum number of downloads of a file whose content is wrong.
TRIES = 3
#: Seconds that prefetching waits for a store: failures are retried when the file is needed.
_PATIENCE_AHEAD = 10.0
#: Size in bytes from which on a process prefetches only two shards at a time: more would fill the cache, and be no
#: faster.
LARGE = 32 << 20
_few_large = threading.BoundedSemaphore(2)
Check = Callable[[Path], object]


def _unlock() -> None:
    """Threads of the parent may have held the lock."""
    global _few_large
    _few_large = threading.BoundedSemaphore(2)


os.register_at_fork(after_in_child=_unlock)


class Shard(NamedTuple):
    """A file below a location, and its entry in the index."""

    path: str
    size: int | None = None
    #: Such as "sha256:…" or "blake2b:…" in hex; None if unknown. "index:…" names content that `check` knows.
    digest: str | None = None
    #: Raises ValueError for a new copy that does not match the index.
    check: Check | None = None


class _File(NamedTuple):
    """A file as described by its index and the store."""

    url: Url
    size: int
    digest: str  # as in `Shard`; "" if unknown
    facts: Facts
    check: Check | None

    @property
    def copy_name(self) -> str:
        return copy_name(self.url, self.size, self.digest or self.facts.version)


class Remote:
    """The files of one scheme: its store, the cache, and known facts."""

    def __init__(self, scheme: str, config: RemoteConfig) -> None:
        self.config = config
        self.store = Store(scheme, timeout_s=config.timeout_s, give_up_s=config.give_up_s)
        self.cache = ShardCache(config.cache, int(config.cache_gb * 2**30))
        self.known: dict[Url, Facts] = {}
        self.ahead: ReadAhead[Shard] = ReadAhead(config.ahead)
        self._blocks: OrderedDict[tuple[Url, int], bytes] = OrderedDict()
        self._pinned: OrderedDict[Url, int] = OrderedDict()
        self._pid = os.getpid()

    def facts(self, url: Url) -> Facts:
        if url not in self.known:
            self.known[url] = self.store.facts(url)
        return self.known[url]

    def open(self, url: Url, size: int | None, digest: str | None) -> OpenFile:
        return OpenFile(self, self._file(url, size, digest))

    def local(self, url: Url, size: int | None, digest: str | None, check: Check | None) -> Path | None:
        if self._pid != os.getpid():  # these copies belong to the parent
            self._pid, self._pinned = os.getpid(), OrderedDict()
        file = self._file(url, size, digest, check)
        if (handle := self.copy(file)) is None:
            return None
        if (before := self._pinned.pop(url, None)) is not None:
            close(before)
        self._pinned[url] = handle
        if len(self._pinned) > KEPT_PATHS:
            close(self._pinned.popitem(last=False)[1])
        return self.cache.folder / file.copy_name

    def block(self, url: Url, index: int, size: int) -> bytes:
        """Bytes `index * BLOCK` up to the next block."""
        key = url, index
        if key not in self._blocks:
            start = index * BLOCK
            try:
                self._blocks[key] = self.store.read(url, start, min(BLOCK, size - start))
            except NoRanges as error:
                raise NoRanges(f"{error}, and no copy can be kept: {self.cache.trouble}") from None
            if len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _file(self, url: Url, size: int | None, digest: str | None, check: Check | None = None) -> _File:
        """A file with the store's facts, which are requested if the index has no digest."""
        if size is not None and digest:
            return _File(url, size, digest, Facts(size), check)
        facts = self.facts(url)
        if facts.size is None and size is None:
            raise StoreError(f"{url}: the server does not say how large it is (Content-Length)")
        if size is not None and facts.size not in (None, size):
            raise Changed(url, f"{facts.size} bytes, not {size}")
        return _File(url, size if size is not None else facts.size or 0, digest or facts.digest, facts, check)

    def copy(self, file: _File, *, wait: bool = True, patience: float | None = None) -> int | None:
        """See `ShardCache.open`."""
        patience = self.config.give_up_s if patience is None else patience
        fill = partial(self._download, file)
        return self.cache.open(file.copy_name, file.size, fill, patience=patience, wait=wait)

    def _download(self, file: _File, target: BinaryIO, patience: float) -> None:
        algorithm, _, expected = file.digest.partition(":")
        wrong: StoreError | None = None
        for _ in range(TRIES):
            target.seek(0)
            total = _hash(algorithm, len(expected) // 2) if expected and algorithm != "index" else None
            for piece in self.store.content(file.url, file.size, ranges=file.facts.ranges, patience=patience):
                target.write(piece)
                if total is not None:
                    total.update(piece)
            if total is not None and total.hexdigest() != expected.lower():
                wrong = Changed(file.url, f"its {algorithm} is {total.hexdigest()}, not {expected}")
                continue
            try:
                if file.check is not None:
                    target.flush()
                    file.check(Path(target.name))
                return
            except ValueError as error:
                wrong = StoreError(f"{file.url}: {error}")
        assert wrong is not None
        raise wrong

    def fetch(self, shard: Shard) -> None:
        """Copy a shard, whose path is its URL."""
        file = self._file(Url(shard.path), shard.size, shard.digest, shard.check)
        patience = min(self.config.give_up_s, _PATIENCE_AHEAD)
        with _few_large if file.size > LARGE else nullcontext():
            handle = self.copy(file, wait=False, patience=patience)
        if handle is not None:
            close(handle)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": OrderedDict(), "_pinned": OrderedDict()}


class OpenFile:
    """A file to read parts of, as a context manager: from a copy, which is not evicted while it is open, or by ranges
    if there is none. Each process opens the copy on its first read and does not use its parent's."""

    def __init__(self, remote: Remote, file: _File) -> None:
        self._remote, self._file, self.size = remote, file, file.size
        self._handle, self._pid = None, os.getpid()
        self._handle = remote.copy(file)

    def read(self, start: int, number: int) -> bytes:
        """`number` bytes from `start`; fewer at the end of the file."""
        if self._pid != os.getpid():
            self._handle, self._pid = self._remote.copy(self._file), os.getpid()
        if self._handle is not None:
            return os.pread(self._handle, number, start)
        stop = min(start + number, self.size)
        pieces = []
        for index in range(start // BLOCK, -(-stop // BLOCK)):
            block, first = self._remote.block(self._file.url, index, self.size), index * BLOCK
            pieces.append(block[max(0, start - first) : stop - first])
        return b"".join(pieces)

    def close(self) -> None:
        if self._handle is not None and self._pid == os.getpid():
            close(self._handle)
        self._handle = None

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _hash(algorithm: str, digest_bytes: int) -> Any:
    if algorithm == "blake2b" and 1 <= digest_bytes <= 64:
        return hashlib.blake2b(digest_size=digest_bytes)
    if algorithm in ("sha256", "md5"):
        return hashlib.new(algorithm, usedforsecurity=False)
    raise ValueError(f"{algorithm!r:.40}: no known kind of digest; make the index again with `fourm data index`")

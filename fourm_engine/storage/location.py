"""A folder or file in a remote store, used by readers of data in place of a `Path`.

    folder = open_location("s3://bucket/photos")
    folder.list()                                   # {"shards/00000.tar": 1048576, …}
    (folder / "splits.json").read_bytes(1 << 28)    # a small file
    with (folder / "shards/00000.tar").open() as shard:
        shard.read(512, 100)                        # 100 bytes from byte 512 on

A file is read from a copy in the cache or, if there can be none, by ranges of bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from fourm_engine.storage.ahead import ReadAhead
from fourm_engine.storage.cache import ShardCache, close, copy_name
from fourm_engine.storage.config import RemoteConfig
from fourm_engine.storage.errors import Changed, Missing, NoRanges, StoreError
from fourm_engine.storage.store import Facts, Store
from fourm_engine.storage.url import Url

#: Bytes of a range, read if there is no copy, and how many ranges a process keeps.
BLOCK, KEPT_BLOCKS = 1 << 20, 64
#: How many copies whose paths were given out are not evicted yet: time for their readers to open them.
KEPT_PATHS = 8
#: How often a file is downloaded whose content is not what it should be.
TRIES = 3
#: Seconds that reading ahead waits for a store: what fails is tried again when it is needed.
_PATIENCE_AHEAD = 10.0

#: Bytes from which on a process fetches only two shards at a time ahead: more would fill the cache, and be no faster.
LARGE = 32 << 20
_few_large = threading.BoundedSemaphore(2)
Check = Callable[[Path], object]


def _unlock() -> None:
    """Threads of the parent may have held it."""
    global _few_large
    _few_large = threading.BoundedSemaphore(2)


os.register_at_fork(after_in_child=_unlock)


class Shard(NamedTuple):
    """A file below a location, and what its index says about it."""

    path: str
    size: int | None = None
    #: Such as "sha256:…" or "blake2b:…" in hex; None if unknown. "index:…" names content that `check` knows.
    digest: str | None = None
    #: Raises ValueError for a new copy that is not what the index says.
    check: Check | None = None


class Location:
    """A folder or file at a URL. Those below it share its connections and its cache. Picklable; safe to use after a
    fork. All methods raise `Missing` (a ValueError) if there is no such file, and other ValueErrors for a store that
    cannot be used: one line with the URL and the remedy."""

    def __init__(self, url: Url, remote: _Remote) -> None:
        self.url, self._remote = url, remote

    def __str__(self) -> str:
        return str(self.url)

    def __truediv__(self, below: str) -> Location:
        """The file or folder at a relative path. Raises ValueError for a path that leads out."""
        return Location(self.url / inside, self._remote) if (inside := _inside(below)) else self

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        return Location(Url(self.url.rpartition("/")[0]), self._remote)

    def exists(self) -> bool:
        """Whether there is such a file."""
        try:
            self._remote.facts(self.url)
        except Missing:
            return False
        return True

    def list(self) -> dict[str, int]:
        """Path -> size in bytes of each file below, sorted, without hidden ones. Raises ValueError for the web, which
        has no listings."""
        sizes = {}
        for path, facts in self._remote.store.listing(self.url).items():
            if facts.size is not None and not any(part.startswith(".") for part in path.split("/")):
                self._remote.known[self.url / path], sizes[path] = facts, facts.size
        return sizes

    def read_bytes(self, max_bytes: int) -> bytes:
        """The content of a small file. Raises ValueError if it is larger than `max_bytes`."""
        facts = self._remote.facts(self.url)
        if facts.size is None:
            raise StoreError(f"{self}: the server does not say how large it is (Content-Length)")
        if facts.size > max_bytes:
            raise ValueError(f"{self}: {facts.size} bytes, more than the {max_bytes} allowed")
        return b"".join(self._remote.store.content(self.url, facts.size, ranges=facts.ranges))

    def open(self, size: int | None = None, digest: str | None = None) -> OpenFile:
        """A file to read parts of. `size` and `digest`, if known, are checked when it is copied."""
        return self._remote.open(self.url, size, digest)

    def local(self, size: int | None = None, digest: str | None = None, check: Check | None = None) -> Path | None:
        """The path of a copy on this machine: open it at once, since it may be evicted later (which an open file
        survives). None if there can be no copy: use `open`. The arguments are those of `Shard`."""
        return self._remote.local(self.url, size, digest, check)

    def ahead(self, shards: Iterable[Shard], *, now: bool = False) -> int:
        """Copy `shards` in the background, several at a time; at most `data.remote.ahead` wait. Returns how many of the
        first are or were copied; the others are dropped. now: they are opened next, in this order; none is dropped."""
        if not self._remote.cache.max_bytes or not (now or self._remote.config.ahead):
            return 0
        self._remote.store.connect()
        items = (shard._replace(path=self.url / _inside(shard.path)) for shard in shards)
        return self._remote.ahead.plan(items, self._remote.fetch, now=now)


class _Remote:
    """One scheme: its store, the cache, and what is known about its files."""

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
        size, facts = self._checked(url, size, digest)
        return OpenFile(self, url, size, partial(self._copy, url, size, digest, facts))

    def local(self, url: Url, size: int | None, digest: str | None, check: Check | None) -> Path | None:
        if self._pid != os.getpid():  # these copies are the parent's
            self._pid, self._pinned = os.getpid(), OrderedDict()
        size, facts = self._checked(url, size, digest)
        if (handle := self._copy(url, size, digest, facts, check)) is None:
            return None
        if (before := self._pinned.pop(url, None)) is not None:
            close(before)
        self._pinned[url] = handle
        if len(self._pinned) > KEPT_PATHS:
            close(self._pinned.popitem(last=False)[1])
        return self.cache.folder / self._name(url, size, digest, facts)

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

    def _checked(self, url: Url, size: int | None, digest: str | None) -> tuple[int, Facts]:
        """The size of a file, and the store's facts, which are fetched if the index has no digest."""
        if size is not None and digest:
            return size, Facts(size)
        facts = self.facts(url)
        if facts.size is None and size is None:
            raise StoreError(f"{url}: the server does not say how large it is (Content-Length)")
        if size is not None and facts.size not in (None, size):
            raise Changed(url, f"{facts.size} bytes, not {size}")
        return size if size is not None else facts.size or 0, facts

    def _name(self, url: Url, size: int, digest: str | None, facts: Facts) -> str:
        return copy_name(url, size, digest or facts.digest or facts.version)

    def _copy(
        self,
        url: Url,
        size: int,
        digest: str | None,
        facts: Facts,
        check: Check | None = None,
        *,
        wait: bool = True,
        patience: float | None = None,
    ) -> int | None:
        return self.cache.open(
            self._name(url, size, digest, facts),
            size,
            partial(self._download, url, size, digest or facts.digest, facts, check),
            patience=self.config.give_up_s if patience is None else patience,
            wait=wait,
        )

    def _download(
        self, url: Url, size: int, digest: str, facts: Facts, check: Check | None, file: BinaryIO, patience: float
    ) -> None:
        algorithm, _, expected = digest.partition(":")
        wrong: StoreError | None = None
        for _ in range(TRIES):
            file.seek(0)
            total = _hash(algorithm, len(expected) // 2) if expected and algorithm != "index" else None
            for piece in self.store.content(url, size, ranges=facts.ranges, patience=patience):
                file.write(piece)
                if total is not None:
                    total.update(piece)
            if total is not None and total.hexdigest() != expected.lower():
                wrong = Changed(url, f"its {algorithm} is {total.hexdigest()}, not {expected}")
                continue
            try:
                if check is not None:
                    file.flush()
                    check(Path(file.name))
                return
            except ValueError as error:
                wrong = StoreError(f"{url}: {error}")
        assert wrong is not None
        raise wrong

    def fetch(self, shard: Shard) -> None:
        url = Url(shard.path)
        size, facts = self._checked(url, shard.size, shard.digest)
        patience = min(self.config.give_up_s, _PATIENCE_AHEAD)
        with _few_large if size > LARGE else nullcontext():
            handle = self._copy(url, size, shard.digest, facts, shard.check, wait=False, patience=patience)
        if handle is not None:
            close(handle)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": OrderedDict(), "_pinned": OrderedDict()}


class OpenFile:
    """A file to read parts of, as a context manager: from a copy, which is not evicted while it is open, or by ranges
    if there is none. Each process opens the copy on its first read and does not use its parent's."""

    def __init__(self, remote: _Remote, url: Url, size: int, copy: partial[int | None]) -> None:
        self.size = size
        self._remote, self._url, self._copy = remote, url, copy
        self._handle, self._pid = None, os.getpid()
        self._handle = copy()

    def read(self, start: int, number: int) -> bytes:
        """`number` bytes from `start` on; fewer at the end of the file."""
        if self._pid != os.getpid():
            self._handle, self._pid = self._copy(), os.getpid()
        if self._handle is not None:
            return os.pread(self._handle, number, start)
        stop = min(start + number, self.size)
        pieces = []
        for index in range(start // BLOCK, -(-stop // BLOCK)):
            block, first = self._remote.block(self._url, index, self.size), index * BLOCK
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


#: A local or remote file or folder to read from.
Readable = Path | Location


def content_of(path: Readable, max_bytes: int) -> bytes:
    """The content of a small file. Raises OSError, and ValueError if it is not a regular file or is larger than
    `max_bytes`."""
    if isinstance(path, Location):
        return path.read_bytes(max_bytes)
    if not stat.S_ISREG((status := path.stat()).st_mode):  # reading a pipe would wait for a writer
        raise ValueError(f"{path}: no regular file; remove it")
    if (size := status.st_size) > max_bytes:
        raise ValueError(f"{path}: {size} bytes, more than the {max_bytes} allowed")
    return path.read_bytes()


def open_location(url: str | Url, config: RemoteConfig | None = None) -> Location:
    """The folder at a URL; nothing is read yet. Raises ValueError for a URL that cannot be used, and, saying what to
    install, for one whose client is not installed."""
    url = Url(url)
    return Location(url, _Remote(url.scheme, config or RemoteConfig()))


def _inside(path: str) -> str:
    """A path below the folder. Raises ValueError if it leads out: an index may contain anything."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r:.200}: leads out of the data's folder; do not use this index")
    return "/".join(part for part in parts if part not in ("", "."))


def _hash(algorithm: str, digest_bytes: int) -> Any:
    if algorithm == "blake2b" and 1 <= digest_bytes <= 64:
        return hashlib.blake2b(digest_size=digest_bytes)
    if algorithm in ("sha256", "md5"):
        return hashlib.new(algorithm, usedforsecurity=False)
    raise ValueError(f"{algorithm!r:.40}: no known kind of digest; make the index again with `fourm data index`")

"""A folder or file in a remote store, used by readers of data in place of a `Path`.

    folder = open_location("s3://bucket/photos")
    folder.list()                                   # {"shards/00000.tar": 1048576, …}
    (folder / "splits.json").read_bytes(1 << 28)    # a small file
    with (folder / "shards/00000.tar").open() as shard:
        shard.read(512, 100)                        # 100 bytes from byte 512 on

A file is read from a copy in the cache or, if there can be none, by ranges of bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from fourm_engine.storage.config import RemoteConfig
from fourm_engine.storage.errors import Missing, StoreError
from fourm_engine.storage.remote import Check, OpenFile, Remote, Shard
from fourm_engine.storage.url import Url


class Location:
    """A folder or file at a URL. Those below it share its connections and its cache. Picklable; safe to use after a
    fork. All methods raise `Missing` (a ValueError) if there is no such file, and other ValueErrors for a store that
    cannot be used: one line with the URL and the remedy."""

    def __init__(self, url: Url, remote: Remote) -> None:
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
    return Location(url, Remote(url.scheme, config or RemoteConfig()))


def _inside(path: str) -> str:
    """A path below the folder. Raises ValueError if it leads out: an index may contain anything."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r:.200}: leads out of the data's folder; do not use this index")
    return "/".join(part for part in parts if part not in ("", "."))

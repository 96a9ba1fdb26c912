"""One kind of remote store, through fsspec: facts, ranges and listings, each retried for a bounded time."""

from __future__ import annotations

import base64
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from fourm_engine.storage.errors import (
    OUT_OF_RANGE,
    Away,
    Changed,
    Missing,
    NoRanges,
    Short,
    StoreError,
    permanent,
    reason,
    status,
    timed_out,
)
from fourm_engine.storage.url import SCHEMES, Url
from fourm_plugins.extras import optional
from fourm_plugins.notes import ALONE

log = logging.getLogger(__name__)
T = TypeVar("T")
#: Bytes per request; halved while a slow store does not send them in time.
CHUNK, SMALLEST_CHUNK = 8 << 20, 64 << 10
#: Seconds before the second try, doubled for each further one up to a limit.
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
#: Names that stores use for a value that changes with a file's content.
_VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "LastModified", "Last-Modified", "updated")


class Facts(NamedTuple):
    """What a store reports about a file."""

    size: int | None
    #: Changes when the content does; '' if the store does not provide it.
    version: str = ""
    #: Digest of the content, such as "sha256:<hex>"; '' if the store does not provide it.
    digest: str = ""
    #: Whether it supports range requests.
    ranges: bool = True


class Store:
    """All files of one scheme. Each process opens its connections lazily."""

    def __init__(self, scheme: str, *, timeout_s: float = 60, give_up_s: float = 300) -> None:
        package, extra = SCHEMES[scheme]
        optional(package, what=f"{scheme}:// needs", install=f"fourm-engine[{extra}]" if extra else package)
        self.scheme, self.timeout_s, self.give_up_s = scheme, timeout_s, give_up_s
        self._chunk, self._whole_only = CHUNK, False
        self._opened: tuple[int, Any] | None = None  # process, its file system

    def facts(self, url: Url) -> Facts:
        """Raises Missing, Away, StoreError."""
        return self._try(url, lambda: _facts(self._call("info", self._path(url))))

    def listing(self, url: Url) -> dict[str, Facts]:
        """All files below a folder, by their path there. Raises StoreError, also for the web, which cannot list."""
        if self.scheme in ("http", "https"):
            raise StoreError(
                f"{url}: the web lists no folders; run `fourm data index` where the data lies, and upload its index too"
            )
        base = self._path(url).rstrip("/") + "/"
        try:
            listed = self._try(url, lambda: self._fs().find(base.rstrip("/"), detail=True))
        except Missing:
            raise Missing(f"{url}: there is no such folder; correct the path, or upload it") from None
        return {name[len(base) :]: _facts(info) for name, info in sorted(listed.items()) if name.startswith(base)}

    def read(self, url: Url, start: int, number: int, patience: float | None = None) -> bytes:
        """Exactly `number` bytes from `start`. Raises StoreError."""
        return b"".join(self._ranges(url, start, start + number, patience))

    def content(self, url: Url, size: int, *, ranges: bool = True, patience: float | None = None) -> Iterator[bytes]:
        """The `size` bytes of a file, in pieces. `patience`: seconds to wait without progress. Raises Missing, Away,
        StoreError."""
        if ranges and not self._whole_only:
            try:
                yield from self._ranges(url, 0, size, patience)
                return
            except NoRanges:
                self._whole_only = True
        yield from self._stream(url, size, patience)

    def _ranges(self, url: Url, at: int, end: int, patience: float | None) -> Iterator[bytes]:
        while at < end:
            data = self._try(url, partial(self._range, url, at, end), patience)
            at += len(data)
            yield data

    def _range(self, url: Url, start: int, end: int) -> bytes:
        """As many bytes from `start` as fit in one request."""
        number = min(self._chunk, end - start)
        try:
            if self.scheme in ("http", "https"):
                data = self._call(_get_range, self._path(url), start, number)
            else:
                data = self._call("cat_file", self._path(url), start=start, end=start + number)
            if len(data) == number:
                return data
            trouble: Exception = Short(f"{len(data)} of {number} bytes")
        except Exception as error:
            if timed_out(error):
                self._chunk = max(self._chunk // 2, SMALLEST_CHUNK)
            if status(error) != OUT_OF_RANGE:
                raise
            trouble = error
        size = _facts(self._call("info", self._path(url))).size
        if size is not None and size < start + number:
            raise Changed(url, f"{size} bytes, not at least {start + number}")
        raise trouble

    def _stream(self, url: Url, size: int, patience: float | None) -> Iterator[bytes]:
        """The whole file from a web server without range requests: a retry skips what was received."""
        at, stream, ended = 0, None, -1

        def more() -> bytes:
            nonlocal stream, ended
            try:
                if stream is None:
                    stream, skip = self._fs().open(self._path(url), "rb", block_size=0), at
                    while skip:
                        if not (skipped := stream.read(min(skip, CHUNK))):
                            raise Short(f"{at - skip} of {size} bytes")
                        skip -= len(skipped)
                if not (data := stream.read(min(size - at, CHUNK))):
                    raise Short(f"{at} of {size} bytes")
                return data
            except Short:
                stream, before, ended = None, ended, at
                there = _facts(self._call("info", self._path(url))).size
                if before == at or (there is not None and there < size):  # it ends there, again or as it says
                    raise Changed(url, f"{at} bytes, not {size}") from None
                raise
            except Exception:
                stream = None
                raise

        try:
            while at < size:
                data = self._try(url, more, patience)
                at += len(data)
                yield data
        finally:
            if stream is not None:
                stream.close()

    def _try(self, url: Url, call: Callable[[], T], patience: float | None = None) -> T:
        """The result of `call`, retried for `patience` seconds, at least once, if the error may be temporary."""
        patience = self.give_up_s if patience is None else patience
        start, wait = time.monotonic(), FIRST_WAIT
        while True:
            try:
                return call()
            except Exception as error:
                if (final := permanent(error, url)) is not None:
                    raise final from None
                first, left = wait == FIRST_WAIT, max(start + patience - time.monotonic(), 0)
                if not left and not first:
                    # Another reader of the file may have waited before, leaving no time for this one.
                    waited = time.monotonic() - start + max(0.0, self.give_up_s - patience)
                    remedy = "check the network, or set data.remote.give_up_s, and start again"
                    raise Away(f"{url}: the store stayed away for {waited:.0f} s ({reason(error)}); {remedy}") from None
                if first and left:
                    log.warning("%s: %s; trying again for up to %.0f s", url, reason(error), left, extra=ALONE)
            time.sleep(min(wait * random.uniform(0.5, 1), left))
            wait = min(2 * wait, LONGEST_WAIT)

    def _call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the file system by name, or a coroutine that takes the file system; if asynchronous, within
        `timeout_s`."""
        from fsspec.asyn import sync  # imported here, since most commands read only local files

        fs = self._fs()
        if callable(method):
            return sync(fs.loop, method, fs, *args, timeout=self.timeout_s, **kwargs)
        if fs.async_impl:
            return sync(fs.loop, getattr(fs, f"_{method}"), *args, timeout=self.timeout_s, **kwargs)
        return getattr(fs, method)(*args, **kwargs)

    def connect(self) -> None:
        """Open the connections of this process, before several of its threads would."""
        self._fs()

    def _path(self, url: Url) -> str:
        return self._fs()._strip_protocol(str(url))

    def _fs(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), file_system(self.scheme, self.timeout_s)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def file_system(scheme: str, timeout_s: float) -> Any:
    """A new file system of fsspec, without its retries, which this module implements, and without its cache of
    listings."""
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        # `trust_env`: proxies, and ~/.netrc. Paths are quoted by `Url`.
        options |= {"client_kwargs": {"timeout": limits, "trust_env": True}, "encoded": True}
        options["headers"] = {"Accept-Encoding": "identity"}
    elif scheme == "s3":
        seconds = {"connect_timeout": timeout_s, "read_timeout": timeout_s}
        options["config_kwargs"] = {**seconds, "retries": {"total_max_attempts": 1}}
    fs = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        fs.retries = 1
    return fs


async def _get_range(fs: Any, url: str, start: int, number: int) -> bytes:
    session = await fs.set_session()
    headers = {"Range": f"bytes={start}-{start + number - 1}", "Accept-Encoding": "identity"}
    async with session.get(fs.encode_url(url), headers=headers) as response:
        response.raise_for_status()
        if response.status != 206:
            raise NoRanges(f"{url}: the server sends no parts of files")
        sent = response.headers.get("Content-Range", f"bytes {start}-")
        pieces, left = list[bytes](), number
        while left >= 0 and (piece := await response.content.read(left + 1)):  # a response may be endless
            pieces.append(piece)
            left -= len(piece)
        if left < 0 or not sent.startswith(f"bytes {start}-"):
            raise StoreError(
                f"{url}: the server sends other bytes ({sent:.60}) than the {number} from {start} on that were "
                f"requested; use another server"
            )
        return b"".join(pieces)


def _facts(info: dict[str, Any]) -> Facts:
    size = info.get("size")
    if info.get("type") == "directory":
        raise FileNotFoundError(info.get("name"))
    version = next((str(value) for key in _VERSIONS if (value := info.get(key))), "")
    lfs, digest = info.get("lfs"), ""
    if lfs and (sha := lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)):
        digest = f"sha256:{sha}"
    elif isinstance(md5 := info.get("md5Hash"), str):
        digest = f"md5:{base64.b64decode(md5).hex()}"
    return Facts(size if isinstance(size, int) else None, version, digest, info.get("partial", True))

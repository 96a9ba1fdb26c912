"""What can go wrong with a remote store, in one line for the user, and which errors are temporary."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

from fourm_engine.storage.url import Url, public

#: Packages whose errors concern the store or the network, and may be temporary.
_CLIENTS = {
    *("aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "huggingface_hub", "requests", "s3fs"),
    *("urllib3", "httpx", "httpx2", "httpcore", "httpcore2"),
}
#: Answers of 400 to 499 that may be temporary: too slow, too early, too many.
OUT_OF_RANGE = 416
_PASSING = {408, OUT_OF_RANGE, 425, 429}
_NO_CREDENTIALS = re.compile(
    r"Credential|ProfileNotFound|TokenRetrieval|SSO|Unauthorized|DefaultCredentials|RefreshError"
)
_CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "run `gcloud auth application-default login`; for a public bucket set FSSPEC_GS_TOKEN=anon",
    "hf": "run `hf auth login`, or set HF_TOKEN",
    "https": "give user and password of the host in ~/.netrc",
    "http": "give user and password of the host in ~/.netrc",
}


class StoreError(ValueError):
    """A remote file or store that cannot be used; the message names the URL and the remedy."""


class Missing(StoreError):
    """There is no such file."""


class Away(StoreError):
    """A store that did not answer for as long as the settings allow."""


class Changed(StoreError):
    """A file that differs from what the index of its data says."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(
            what
            if not url
            else f"{url}: {what}, as its index says; upload it again, or run `fourm data index` where "
            f"the data lies and upload the index"
        )

    def __reduce__(self) -> tuple:
        return type(self), ("", str(self))


class NoRanges(StoreError):
    """A web server that sends whole files only."""


class Short(OSError):
    """An answer with fewer bytes than were requested."""


def permanent(error: Exception, url: Url) -> StoreError | None:
    """The error for the user if another try cannot help; None if the cause may be temporary. Raises `error` again if it
    is not the store's."""
    if isinstance(error, StoreError):
        return error
    chain, code, where = list(_causes(error)), status(error), public(str(url))
    client = any(type(e).__module__.partition(".")[0] in _CLIENTS for e in chain)
    # File systems say "not found" also where they could not look, with the client's error as the cause.
    if code in (404, 410) or (code is None and not client and isinstance(error, FileNotFoundError)):
        return Missing(f"{where}: there is no such file; correct the path, or upload it")
    if (
        code in (401, 403, 407)
        or any(_NO_CREDENTIALS.search(type(e).__name__) for e in chain)
        or (code is None and isinstance(error, PermissionError))
    ):
        return StoreError(f"{where}: no access, or no such file; correct the path, or {_CREDENTIALS[url.scheme]}")
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in chain):
        return StoreError(f"{where}: certificate not trusted ({reason(error)}); set SSL_CERT_FILE, or correct the URL")
    if any(type(e).__name__ == "OfflineModeIsEnabled" for e in chain):
        return StoreError(f"{where}: cannot be read offline; unset HF_HUB_OFFLINE, or copy the data to a local folder")
    if code is not None and 300 <= code < 500 and code not in _PASSING:
        return StoreError(f"{where}: refused ({reason(error)}); correct the URL, or the settings of the store")
    if code is None and not client and not isinstance(error, (OSError, EOFError)):
        raise error
    return None


def reason(error: Exception) -> str:
    """Why a try failed, in a few words."""
    if (code := status(error)) is not None:
        return f"status {code}"
    if timed_out(error):
        return "no answer in time"
    root = list(_causes(error))[-1]
    if type(root).__name__ == "TooManyRedirects":
        return "it redirects without end"
    text = " ".join(public(str(root)).split()) or type(root).__name__
    return text if len(text) <= 200 else text[:200] + "…"


def timed_out(error: Exception) -> bool:
    return any(isinstance(e, TimeoutError) or "Timeout" in type(e).__name__ for e in _causes(error))


def status(error: BaseException) -> int | None:
    """The HTTP status, if the store answered with one."""
    return next((code for e in _causes(error) if (code := _status(e)) is not None), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of one of the clients."""
    if type(error.__cause__).__module__ == "aiohttp.http_exceptions":
        return None  # an answer that is not HTTP, which aiohttp reports as a 400
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        code = getattr(response, "status_code", None) or getattr(error, "status", None)
        if code is None and type(error).__module__.startswith("gcsfs"):  # elsewhere `code` may mean something else
            code = getattr(error, "code", None)
    return code if isinstance(code, int) and 100 <= code < 600 else None

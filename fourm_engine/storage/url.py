"""Where data is: a local folder (`Path`) or a remote one (`Url`).

A `Path` would make `s3:/bucket` of `s3://bucket`; hence a type of its own, and `AnyFolder`, which settings use.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import BeforeValidator, PlainSerializer, PlainValidator

#: Scheme -> the package that reads it, and the extra that installs it.
SCHEMES = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "https": ("aiohttp", "http"),
    "http": ("aiohttp", "http"),
    "hf": ("huggingface_hub", ""),
}
#: Names that no package's source may have: the engine reads these itself.
RESERVED = frozenset({"pipe", *SCHEMES})
#: The name of a source, before the colon; neither a drive of Windows nor a URL.
_SOURCE = re.compile(r"([a-z][a-z0-9_+-]+):(?!//)(?=.)")
_URL = re.compile(r"^([a-z][a-z0-9+.]*):/+", re.IGNORECASE)
_SECRETS = re.compile(r"(?<=://)[^/@]*@|\?.*")


class Url(str):
    """A folder in a remote store, without a slash at its end. Raises ValueError for an unknown scheme, and for
    credentials, which would end up in logs and in the configs of runs."""

    def __new__(cls, text: str) -> Url:
        match = _URL.match(text)
        scheme = match[1].lower() if match else ""
        if match is None or scheme not in SCHEMES:
            raise ValueError(f"{public(text)}: not a folder nor a URL of {', '.join(f'{s}://' for s in SCHEMES)}")
        rest = text[match.end() :].rstrip("/")
        if public(text) != text:
            raise ValueError(
                f"{public(text)}: a URL with a user, password or ? would put them into logs and stored configs; take "
                f"them out, and give credentials through the environment or in ~/.netrc"
            )
        if not rest or ".." in rest.split("/"):
            raise ValueError(f"{text}: names no bucket or host, or leads out of it")
        return super().__new__(cls, f"{scheme}://{rest}")

    @property
    def scheme(self) -> str:
        return self.partition("://")[0]

    def __truediv__(self, below: str) -> Url:
        # A name may hold characters that mean something else in a URL of the web; stores take any name as it is.
        name = quote(below) if self.scheme in ("http", "https") else below
        return str.__new__(Url, f"{self}/{name.strip('/')}")


Folder = Path | Url


def public(text: str) -> str:
    """A URL without what may be secret: user, password, query."""
    return _SECRETS.sub("…", text) if "://" in text else text


def scheme_of(source: object) -> str | None:
    """NAME of `NAME:LOCATION`, which the source of a package opens; None for what the engine reads itself."""
    match = _SOURCE.match(source) if isinstance(source, str) else None
    return None if match is None or match[1] in RESERVED else match[1]


def parse(folder: object) -> Folder:
    """A Url for the text of one, a Path for any other text. Raises ValueError for a URL that cannot be used, and for
    what is no text."""
    if isinstance(folder, Url):
        return folder
    if not isinstance(folder, (str, Path)):
        raise ValueError("a folder or a URL is text")
    if "\0" in str(folder):
        raise ValueError("a folder's name holds no NUL character; remove it")
    # One slash: what is left of `s3://bucket` once something made a Path of it.
    text, match = str(folder), _URL.match(str(folder))
    return Url(text) if match and (match[1].lower() in SCHEMES or "://" in text) else Path(text)


def absolute(folder: Folder) -> Folder:
    """The same for every way to name a folder."""
    return folder if isinstance(folder, Url) else folder.resolve()


def refuse_remote(folder: object, key: str, remedy: str) -> None:
    """Raise ValueError for a remote folder where a setting names one to write to: files there could be half written, or
    replaced under those who read them."""
    if isinstance(folder, Url):
        raise ValueError(f"{key}: {folder} is only read from; {remedy}")


def _local(folder: object) -> object:
    if isinstance(folder, (str, Path)) and isinstance(parsed := parse(folder), Url):
        raise ValueError(f"{parsed} is no folder of this machine; name one, since this is written to")
    return folder


#: A folder in the settings that is written to: as `Path`, but a URL is refused rather than made a folder `s3:`.
LocalFolder = Annotated[Path, BeforeValidator(_local)]
#: A folder in the settings: text becomes a Path or a Url.
AnyFolder = Annotated[Folder, PlainValidator(parse), PlainSerializer(str, when_used="json")]

"""Where data is: a local folder (`Path`) or a remote one (`Url`).

`Path` would turn `s3://bucket` into `s3:/bucket`; hence a separate type, and `AnyFolder`, which settings use.
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
#: Names that no package's source may have: the engine handles these itself.
RESERVED = frozenset({"pipe", *SCHEMES})
#: The name of a source, before the colon; neither a Windows drive nor a URL scheme.
_SOURCE = re.compile(r"([a-z][a-z0-9_+-]+):(?!//)(?=.)")
_URL = re.compile(r"^([a-z][a-z0-9+.]*):/+", re.IGNORECASE)
_SECRETS = re.compile(r"(?<=://)[^/@]*@|\?.*")


class Url(str):
    """A folder in a remote store, without a trailing slash. Raises ValueError for an unknown scheme, and for
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
        # A name may contain characters with a meaning in a web URL; stores accept any name as it is.
        name = quote(below) if self.scheme in ("http", "https") else below
        return str.__new__(Url, f"{self}/{name.strip('/')}")


Folder = Path | Url


def public(text: str) -> str:
    """A URL without its secrets: user, password, query."""
    return _SECRETS.sub("…", text) if "://" in text else text


def scheme_of(source: object) -> str | None:
    """NAME of `NAME:LOCATION`, which a package's source opens; None for locations that the engine reads itself."""
    match = _SOURCE.match(source) if isinstance(source, str) else None
    return None if match is None or match[1] in RESERVED else match[1]


def parse(folder: object) -> Folder:
    """A Url if the text is one, otherwise a Path. Raises ValueError for a URL that cannot be used, and for values other
    than text."""
    if isinstance(folder, Url):
        return folder
    if not isinstance(folder, (str, Path)):
        raise ValueError("a folder or a URL is text")
    if "\0" in str(folder):
        raise ValueError("a folder's name holds no NUL character; remove it")
    # A single slash: the result of converting `s3://bucket` to a Path.
    text, match = str(folder), _URL.match(str(folder))
    return Url(text) if match and (match[1].lower() in SCHEMES or "://" in text) else Path(text)


def absolute(folder: Folder) -> Folder:
    """A canonical form, equal for every spelling of the same folder."""
    return folder if isinstance(folder, Url) else folder.resolve()


def refuse_remote(folder: object, key: str, remedy: str) -> None:
    """Raise ValueError for a remote folder in a setting for output: files there could be half written, or replaced
    while others read them."""
    if isinstance(folder, Url):
        raise ValueError(f"{key}: {folder} is only read from; {remedy}")


def _local(folder: object) -> object:
    if isinstance(folder, (str, Path)) and isinstance(parsed := parse(folder), Url):
        raise ValueError(f"{parsed} is no folder of this machine; name one, since this is written to")
    return folder


#: A folder in the settings that is written to: like `Path`, but a URL is rejected instead of creating a folder `s3:`.
LocalFolder = Annotated[Path, BeforeValidator(_local)]
#: A folder in the settings: text becomes a Path or a Url.
AnyFolder = Annotated[Folder, PlainValidator(parse), PlainSerializer(str, when_used="json")]

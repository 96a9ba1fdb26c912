"""What a sample is called whatever its files are called, and which files are no data.

In: paths as a file system or an archive gives them, in any encoding and Unicode normal form. Out: names that pair up
across modalities and can be printed, stored and compared; one line a kind of what was left out.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence

log = logging.getLogger(__name__)
#: Control, surrogate, line and paragraph separator.
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")
#: Marks that make a terminal write backwards.
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: What systems leave beside a user's files, and `fourm data index` beside its data, in lower case.
_LITTER = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found")
) | {"@eadir", "_index"}
_ARCHIVES = re.compile(
    r"\.(tgz|tbz2?|txz|tzst|(tar|tar\.\w+)\.(gz|bz2|xz|zst|lz4|z)|tar\.(gz|bz2|xz|zst|lz4|z)|zip|7z|rar)$",
    re.IGNORECASE,
)
_DOCUMENTS = re.compile(
    r"^(readme|licen[cs]e|changelog|citation)\b|\.(md|rst|cff)$|^(classes|meta|metadata|info)\.jsonl?$", re.IGNORECASE
)
#: How to make files of other formats readable, by what their names end in.
_REMEDIES = {
    "save them as .png or .jpg": "avif bmp cr2 dng gif heic heif jp2 nef pgm ppm raw tga",
    "save them as .png, or numbers as .npy": "tif tiff",
    "save their arrays as .npy": "bin exr h5 hdf5 hdr mat npz pfm pkl pt pth zarr",
    "save their frames as .jpg, one folder per video": "avi m4v mkv mov mp4 mpeg mpg webm",
}
_REMEDY_OF = {extension: remedy for remedy, extensions in _REMEDIES.items() for extension in extensions.split()}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "ZIP",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}
MAX_SHOWN = 200
_said: set[str] = set()


def plain(text: str) -> str:
    """`text` in the composed normal form (NFC), so that names from macOS and from elsewhere are the same, with what
    cannot be printed or is not UTF-8 escaped: such a name is one line of any log, and any file can store it."""
    text = unicodedata.normalize("NFC", text)
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED and character not in _TURNING:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shown(path: object) -> str:
    """A path for a message, on one line and not too long."""
    text = plain(str(path))
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}…{text[-MAX_SHOWN // 2 :]}"


def split(path: str, extensions: Sequence[str]) -> tuple[str, str] | None:
    """(sample, extension) of a path with one of the extensions, in capitals or not, the longest that fits; None for any
    other."""
    lowered = path.lower()
    for extension in sorted(extensions, key=len, reverse=True):
        if lowered.endswith("." + extension.lower()):
            return plain(path[: -len(extension) - 1]), extension
    return None


def is_litter(path: str) -> bool:
    """Whether a file, or a folder above it, is hidden, or left behind by a system: never data."""
    return any(part.startswith(".") or part.casefold() in _LITTER for part in path.split("/"))


def is_archive(file: str) -> bool:
    """A compressed archive, by its name."""
    return _ARCHIVES.search(file) is not None


def is_document(file: str) -> bool:
    """A file that tells of the data, which nobody expects to be read as data."""
    return _DOCUMENTS.search(file) is not None


def remedy_for(file: str) -> str:
    """How to save a file so that it can be read; empty if that is unknown."""
    return _REMEDY_OF.get(file.rpartition(".")[2].lower(), "")


def compression(head: bytes) -> str | None:
    """What a file that begins with `head` is compressed by, if it is."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def wrapping(names: Sequence[str], folder: str) -> str:
    """The path up to and including `folder/` where all of the names begin with it, as in an archive that was made of
    the folder rather than in it; '' where they do not."""
    before, match, _ = f"/{min(names, default='')}".partition(f"/{folder}/")
    prefix = f"{before}{match}".removeprefix("/")
    return prefix if match and all(name.startswith(prefix) for name in names) else ""


def say(line: str, level: int = logging.WARNING) -> None:
    """Log `line`, once a process: the same data is opened for each tokenizer, and for both splits."""
    if line not in _said:
        _said.add(line)
        log.log(level, "%s", line)


def inform(line: str) -> None:
    """Say what is no reason to do anything."""
    say(line, logging.INFO)

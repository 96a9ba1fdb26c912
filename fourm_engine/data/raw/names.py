"""Derives sample names from file names, and tells which files are not data.

In: paths from a file system or an archive, in any encoding and Unicode normal form. Out: names that match across
modalities and can be printed, stored and compared; one line per kind of skipped file.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence

log = logging.getLogger(__name__)
#: Unicode categories to escape: control, surrogate, line and paragraph separator.
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")
#: Marks that change the direction of text in a terminal.
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Files that operating systems, and `fourm data index`, create next to data; in lower case.
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
#: Ending of a file's name -> how to convert files of that format to a readable one.
_REMEDIES = {
    "save them as .png or .jpg": "avif bmp cr2 dng gif heic heif jp2 nef pgm ppm raw tga",
    "save them as .png, or numbers as .npy": "tif tiff",
    "save their arrays as .npy": "bin exr h5 hdf5 hdr mat npz pfm pkl pt pth zarr",
    "read where they lie with fourm-parquet, data.train: parquet:FOLDER": "parquet",
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
    """`text` in composed normal form (NFC), so that names from macOS equal those from other systems, with escapes for
    bytes that are not UTF-8 and characters that cannot be printed: the name fits on one line of a log, and any file can
    store it."""
    text = unicodedata.normalize("NFC", text)
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED and character not in _TURNING:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shown(path: object) -> str:
    """A path for a message: one line of limited length."""
    text = plain(str(path))
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}…{text[-MAX_SHOWN // 2 :]}"


def split(path: str, extensions: Sequence[str]) -> tuple[str, str] | None:
    """(sample, extension) of a path, with the longest of the extensions that matches, ignoring case; None if none
    does."""
    lowered = path.lower()
    for extension in sorted(extensions, key=len, reverse=True):
        if lowered.endswith("." + extension.lower()):
            return plain(path[: -len(extension) - 1]), extension
    return None


def is_litter(path: str) -> bool:
    """Whether a file or one of its folders is hidden or created by the operating system, and so is never data."""
    return any(part.startswith(".") or part.casefold() in _LITTER for part in path.split("/"))


def is_archive(file: str) -> bool:
    """Whether the name is that of a compressed archive."""
    return _ARCHIVES.search(file) is not None


def is_document(file: str) -> bool:
    """Whether the file documents the data and is obviously not data itself."""
    return _DOCUMENTS.search(file) is not None


def remedy_for(file: str) -> str:
    """How to save a file so that it can be read; empty if that is unknown."""
    return _REMEDY_OF.get(file.rpartition(".")[2].lower(), "")


def compression(head: bytes) -> str | None:
    """The compression of a file that begins with `head`, or None."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def wrapping(names: Sequence[str], folder: str) -> str:
    """The common path of all names up to and including `folder/`, as in an archive that was made of the folder rather
    than inside it; '' if there is none."""
    before, match, _ = f"/{min(names, default='')}".partition(f"/{folder}/")
    prefix = f"{before}{match}".removeprefix("/")
    return prefix if match and all(name.startswith(prefix) for name in names) else ""


def say(line: str, level: int = logging.WARNING) -> None:
    """Log `line` once per process: the same data is opened for each tokenizer, and for both splits."""
    if line not in _said:
        _said.add(line)
        log.log(level, "%s", line)


def inform(line: str) -> None:
    """Log a note that requires no action."""
    say(line, logging.INFO)

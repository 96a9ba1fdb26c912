"""`SampleError`, raised by a plugin for a value that it cannot use; any error as one line, and the error of a file
that may not be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class SampleError(ValueError):
    """A file or value that cannot be used, with the reason in one line. The engine adds the name and, as configured,
    skips it or stops."""


def one_line(error: BaseException) -> str:
    """The error's message without line breaks, and without the traceback that a plugin's error includes; '' if it has
    none."""
    return " ".join(str(error).partition("\nTraceback ")[0].split())


def first_line(error: BaseException) -> str:
    """The first line of the error's message, at most 500 characters; the name of its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def check_permitted(path: Path) -> None:
    """Raise PermissionError for an existing file that may not be read. It is not damaged: otherwise a reader would
    offer to replace it, and safetensors reports it as missing."""
    if path.exists() and not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

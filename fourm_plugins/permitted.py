"""Checks read permission."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def check_permitted(path: Path) -> None:
    """Raise PermissionError for an existing file that may not be read. It is not damaged: otherwise a reader would
    offer to replace it, and safetensors reports it as missing."""
    if path.exists() and not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

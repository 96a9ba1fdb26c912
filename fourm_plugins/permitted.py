"""Whether a file may be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def check_permitted(path: Path) -> None:
    """Raise PermissionError for a file that is there and may not be read, which is not damaged: a reader would offer to
    replace it, and safetensors says that there is none."""
    if path.exists() and not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

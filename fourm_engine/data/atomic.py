"""Files that appear under their name only when whole.

In: a path, and what writes it. Out: the file, renamed from a hidden temporary one beside it; a process that is killed
leaves that one behind, for the next run to remove.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.\d+\.tmp$")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path, which becomes `path` when the block ends well and is removed when it fails. Folders above it
    are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, mine: Callable[[str], bool]) -> None:
    """Remove what killed processes left of files below `folder`. `mine` says of a file's path below the folder whether
    this process is the one to write it: another's may be at work."""
    for parent, _, files in os.walk(folder):
        for file in files:
            if match := _TEMPORARY.match(file):
                path = os.path.relpath(os.path.join(parent, match["name"]), folder).replace(os.sep, "/")
                if mine(path):
                    Path(parent, file).unlink(missing_ok=True)

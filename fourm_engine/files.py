"""Files and folders that appear whole or not at all: written beside their place, then renamed.

A reader sees what was there before or all that is new, whenever the writer is stopped; what a killed writer leaves
beside bears a name that begins with a dot, and belongs to nobody but the next run, which may remove it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PART = re.compile(r"^\.(?P<name>.+)\.\d+\.part$")


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields where to write; at the end of the block that file takes the place of `path`. Nothing is left of a block
    that raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, mine: Callable[[str], bool]) -> None:
    """Remove what killed writers of `replacing_file` left below `folder`. `mine` says of a file's path below the folder
    whether this process is the one to write it: another's may be at work."""
    for parent, _, files in os.walk(folder):
        for file in files:
            if match := _PART.match(file):
                path = os.path.relpath(os.path.join(parent, match["name"]), folder).replace(os.sep, "/")
                if mine(path):
                    Path(parent, file).unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Text is written as UTF-8."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; at the end of the block it takes the place of `folder`, whose former content is
    removed. Nothing is left of a block that raises."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    old = temporary.with_name(temporary.name + ".old")
    try:
        temporary.chmod(0o755)  # mkdtemp's folders are private
        yield temporary
        if folder.exists():
            os.rename(folder, old)  # a folder with content cannot be replaced by renaming
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

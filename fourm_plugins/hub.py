"""Decides whether a model named by the user is a local path or an id on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fourm_plugins.suggest import nearest_path

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: Extensions of files that are given by path.
FILES = (".json", ".safetensors", ".yaml")


def is_path(source: str | os.PathLike[str]) -> bool:
    """Whether `source` can only be a path: it or its leading folder exists; it begins with `.`, `/` or `~`, has a
    file's extension, or has more parts than a model id of the Hub (owner/name)."""
    text = os.fspath(source)
    if isinstance(source, os.PathLike) or Path(text).exists():
        return True
    if not HUB_ID.fullmatch(text):
        return "/" in text or os.sep in text
    return text.startswith(".") or text.endswith(FILES) or Path(text.split("/")[0]).exists()


def check_there(source: str | os.PathLike[str], *, beside: Path | None = None) -> None:
    """Raise ValueError, one line, if `source` is a path that does not exist; an id of the Hub is not looked up.

    beside: the folder of the file that names it. Paths are not relative to it, which the message says where it
    helps."""
    path = Path(source)
    if path.exists():
        return
    if "://" in (text := os.fspath(source)):  # the user and password of a URL are not for logs
        raise ValueError(
            f"{text.partition('://')[0]}://…: no model is read from a URL; download it, or name its id on the Hub "
            f"(owner/name)"
        )
    what = f"{source}: no such {'file' if path.suffix in FILES else 'folder'}"
    if beside is not None and (beside / path).exists():
        raise ValueError(f"{what}; paths are relative to where the command is typed: write {beside / path}")
    if is_path(source):
        there = next((parent for parent in path.parents if parent.is_dir()), Path())
        name, near = path.relative_to(there).parts[0], nearest_path(path)
        absent = "" if path == there / name else f"; {there / name} is not there"
        raise ValueError(what + (f"; did you mean {near}?" if near else absent))

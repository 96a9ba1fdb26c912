"""Lists the shards in a folder of tokens, with the size and time of each file, which detect replaced ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from fourm_engine.data.tokens.shards import VIEWS_FOLDER, unusable

#: Part -> number of the shard -> size and time.
Files = dict[str, dict[int, tuple[int, int]]]
_SHARD = re.compile(r"shard-(\d+)\.safetensors", re.ASCII)


def scan(folder: Path) -> Files:
    """The existing shards of views, and of all modalities. Raises ValueError if there are no views."""
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    parts = sorted(path.name for path in folders if path.name[0] not in "._")
    files = {part: scan_part(folder / part) for part in (VIEWS_FOLDER, *parts)}
    if not files[VIEWS_FOLDER]:
        raise ValueError(f"{folder / VIEWS_FOLDER}: holds no shard-*.safetensors; run `fourm tokenize`")
    return {part: shards for part, shards in files.items() if shards}


def scan_part(folder: Path) -> dict[int, tuple[int, int]]:
    """Number of each shard in the folder of a part -> its size and time. Raises ValueError for an empty file."""
    shards = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if (match := _SHARD.fullmatch(entry.name)) is not None:
                    state = entry.stat()
                    if state.st_size == 0:  # which would mean that there is no file
                        raise unusable(Path(entry.path), "damaged, an empty file")
                    shards[int(match[1])] = state.st_size, state.st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return shards


def file_stamps(files: Files, parts: list[str]) -> np.ndarray:
    """uint64 (shards, parts, 2): size and time of each file; 0 for a missing one."""
    numbers = np.array(sorted(files[VIEWS_FOLDER]))
    stamps = np.zeros((len(numbers), len(parts), 2), np.uint64)
    for part, name in enumerate(parts):
        if shards := files.get(name):
            there = np.fromiter(shards, np.int64, len(shards))
            at = np.searchsorted(numbers, there).clip(max=len(numbers) - 1)
            known = numbers[at] == there
            stamps[at[known], part] = np.array(list(shards.values()), np.uint64)[known]
    return stamps

"""The samples of a data set as columns: which there are, which modality each has, and where its bytes lie.

names.*                 the samples, sorted; see `names_table`
loose.*                 paths of loose files below the root
<claim>.starts          (n + 1,): the files of sample `row` are `starts[row]` to `starts[row + 1]` of
<claim>.files           a row of the members of all shards, or -1 - a row of `loose`
<claim>.extensions      uint8, which of the claim's extensions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fourm_engine.data.columns import Entries
from fourm_engine.data.names_table import ENCODING, NameTable, joined
from fourm_engine.data.raw.folder import FolderSource
from fourm_engine.data.raw.sample_shards import Claim
from fourm_engine.data.raw.source import MixedSource, Opened
from fourm_engine.data.raw.tar import Shards

Columns = dict[str, Entries]


def smallest(column: np.ndarray) -> np.ndarray:
    """Unsigned columns in as few bytes as their values allow, signed ones in four or eight."""
    top = int(column.max(initial=0))
    if column.min(initial=0) < 0:
        return column.astype(np.int32 if top < 1 << 31 and column.min() >= -(1 << 31) else np.int64)
    return column.astype(np.min_scalar_type(top))


def view_columns(opened: Opened, claims: Sequence[Claim], firsts: Mapping[str, int]) -> Columns:
    """The columns of sources that were opened. firsts: path of a shard below the root -> row of its first member."""
    table = NameTable.build(sorted(set[str]().union(*(source.names for source in opened.sources.values()))))
    loose: list[str] = []
    columns: Columns = {f"names.{column}": array for column, array in table.arrays().items()}
    columns |= {f"names.{column}": smallest(np.asarray(columns[f"names.{column}"])) for column in ("offsets", "order")}
    for number, claim in enumerate(claims):
        source = opened.sources.get(claim.key)
        counts = np.zeros(len(table), np.int64)
        files, extensions = list[int](), list[int]()
        names = source.names if source is not None else []
        for name, row in zip(names, table.rows(names).tolist()):
            part = source.part(name) if isinstance(source, MixedSource) else source
            for extension, file in _files(part, name, opened.root, firsts, loose):
                counts[row] += 1
                files.append(file)
                extensions.append(claim.extensions.index(extension))
        columns[f"{number}.starts"] = smallest(np.concatenate([[0], np.cumsum(counts)]))
        columns[f"{number}.files"] = smallest(np.array(files, np.int64))
        columns[f"{number}.extensions"] = np.array(extensions, np.uint8)
    offsets, blob = joined([path.encode(*ENCODING) for path in loose])
    return columns | {"loose.offsets": smallest(offsets), "loose.blob": blob}


def _files(part: object, name: str, root: Path, firsts: Mapping[str, int], loose: list[str]) -> list[tuple[str, int]]:
    """[(extension, row)] of a sample."""
    assert isinstance(part, (FolderSource, Shards))
    folder = part.folder.relative_to(root).as_posix()
    below = "" if folder == "." else f"{folder}/"
    if isinstance(part, Shards):
        return [(e, firsts[below + shard] + content.row) for e, (shard, content) in part.entries(name).items()]
    rows = []
    for extension, path in part.entries(name).items():
        loose.append(below + path)
        rows.append((extension, -len(loose)))
    return rows

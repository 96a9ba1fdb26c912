"""The samples of a data set as columns: their names, the modalities of each, and the location of its bytes.

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
from fourm_engine.data.raw.local_sources import LocalSources
from fourm_engine.data.raw.sample_shards import Claim
from fourm_engine.data.raw.source import LooseFiles, ShardMembers
from fourm_engine.storage.location import Readable

Columns = dict[str, Entries]


def smallest(column: np.ndarray) -> np.ndarray:
    """The column in the smallest unsigned type that fits its values; signed columns in four or eight bytes."""
    top = int(column.max(initial=0))
    if column.min(initial=0) < 0:
        return column.astype(np.int32 if top < 1 << 31 and column.min() >= -(1 << 31) else np.int64)
    return column.astype(np.min_scalar_type(top))


def view_columns(opened: LocalSources, claims: Sequence[Claim], firsts: Mapping[str, int]) -> Columns:
    """The columns of opened sources. firsts: relative path of a shard -> row of its first member."""
    table = NameTable.build(sorted(set[str]().union(*(source.names for source in opened.sources.values()))))
    loose: list[str] = []
    first_rows: dict[Readable, int] = {opened.root / shard: row for shard, row in firsts.items()}
    columns: Columns = {f"names.{column}": array for column, array in table.arrays().items()}
    columns |= {f"names.{column}": smallest(np.asarray(columns[f"names.{column}"])) for column in ("offsets", "order")}
    for number, claim in enumerate(claims):
        source = opened.sources.get(claim.key)
        counts = np.zeros(len(table), np.int64)
        files, extensions = list[int](), list[int]()
        names = source.names if source is not None else []
        for name, row in zip(names, table.rows(names).tolist()):
            assert source is not None
            for extension, file in _files(source.sample(name), opened.root, first_rows, loose):
                counts[row] += 1
                files.append(file)
                extensions.append(claim.extensions.index(extension))
        columns[f"{number}.starts"] = smallest(np.concatenate([[0], np.cumsum(counts)]))
        columns[f"{number}.files"] = smallest(np.array(files, np.int64))
        columns[f"{number}.extensions"] = np.array(extensions, np.uint8)
    offsets, blob = joined([path.encode(*ENCODING) for path in loose])
    return columns | {"loose.offsets": smallest(offsets), "loose.blob": blob}


def _files(
    sample: LooseFiles | ShardMembers, root: Path, first_rows: Mapping[Readable, int], loose: list[str]
) -> list[tuple[str, int]]:
    """[(extension, row)] of a sample. first_rows: path of a shard -> row of its first member."""
    if isinstance(sample, ShardMembers):
        first = first_rows[sample.shard]
        return [(extension, first + content.row) for extension, content in sample.files.items()]
    assert isinstance(sample.folder, Path)
    rows, folder = [], sample.folder.relative_to(root)
    for extension, path in sample.files.items():
        loose.append((folder / path).as_posix())
        rows.append((extension, -len(loose)))
    return rows

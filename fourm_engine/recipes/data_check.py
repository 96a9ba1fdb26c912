"""Verify token shards, and bring their index up to date: what `fourm data check` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fourm_engine.data.index import INDEX_FOLDER, Index
from fourm_engine.data.indexing import has_tokens, open_index
from fourm_engine.data.tokens import TokenShard
from fourm_engine.recipes.tell import Tell, say
from fourm_engine.storage.url import parse, refuse_remote


def check(folder: Path, *, tell: Tell = say) -> list[Index]:
    """Index the tokens in `folder`, or in its `train` and `val`, as far as they are not, say what they hold, and read
    all shards, to compare their ids with the digests that were written with them.

    Returns the indices. Raises ValueError where there are no tokens, for shards that cannot be read or do not belong
    together, and for damaged ids."""
    refuse_remote(parse(folder), "FOLDER", "check a local copy")
    folders = [place for place in (folder, folder / "train", folder / "val") if has_tokens(place)]
    if not folders:
        raise ValueError(f"{folder}: holds no tokens, nor do train/ and val/ in it; run `fourm tokenize`")
    indices = [open_index(place) for place in folders]
    for index in indices:
        bits = [(name, index.present.dtype.type(1 << bit)) for bit, name in enumerate(index.modalities)]
        counts = ", ".join(f"{name} {np.count_nonzero(index.present & bit)}" for name, bit in bits)
        assert isinstance(index.folder, Path)
        size = sum(path.stat().st_size for path in (index.folder / INDEX_FOLDER).glob("*"))
        tell(
            f"{index.folder}: {len(index) - len(index.dropped)} samples in {len(index.shards)} shards; {counts}; "
            f"{INDEX_FOLDER}/ has {size / max(1, len(index)):.0f} bytes a sample"
        )
    if damaged := [line for index in indices for line in _damaged(index)]:
        more = f" and {len(damaged) - 1} more shards" if len(damaged) > 1 else ""
        raise ValueError(f"{damaged[0]}{more}; `fourm tokenize --verify` encodes them again")
    tell("all ids are those that were written")
    return indices


def _damaged(index: Index) -> list[str]:
    lines = []
    for modality in index.modalities:
        for shard in index.holding(modality).tolist():
            path = index.path(index.parts.index(modality), shard)
            assert isinstance(path, Path)
            rows = TokenShard(path, int(index.shards[shard, 1]), int(index.shards[shard, 2])).damaged_rows()
            if len(rows):
                first = index.names.name(int(index.starts[shard] + rows[0]))
                lines.append(f"{path}: {len(rows)} samples, such as {first}, hold other ids than were written")
    return lines

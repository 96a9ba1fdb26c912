"""Bring the index of tokens up to date, and verify their shards: what `fourm data index` does."""

from __future__ import annotations

import numpy as np

from fourm_engine.data.index import INDEX_FOLDER, Index
from fourm_engine.data.indexing import has_tokens, open_index
from fourm_engine.data.tokens import TokenShard
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.tell import Tell, say


def index_data(config: RunConfig, *, verify: bool = False, tell: Tell = say) -> dict[str, Index]:
    """Index the tokens of a config, as far as they are not, and say what they hold.

    verify: read all shards, and compare their ids with the digests that were written with them.

    Returns split -> index. Raises ValueError where there are no tokens, for shards that cannot be read or do not belong
    together, and for damaged ids."""
    if config.data.tokens is None:
        raise ValueError("data.tokens is not set: name the folder of the tokens")
    folders = {part: config.data.tokens / part for part in ("train", "val")}
    indices = {part: open_index(folder) for part, folder in folders.items() if has_tokens(folder)}
    if not indices:
        raise ValueError(f"{config.data.tokens}: holds no tokens in train/ or val/; run `fourm tokenize`")
    for part, index in indices.items():
        bits = [(name, index.present.dtype.type(1 << bit)) for bit, name in enumerate(index.modalities)]
        counts = ", ".join(f"{name} {np.count_nonzero(index.present & bit)}" for name, bit in bits)
        tell(
            f"{part}: {len(index) - len(index.dropped)} samples in {len(index.shards)} shards; {counts}; index in "
            f"{index.folder / INDEX_FOLDER}"
        )
    if verify:
        damaged = [line for index in indices.values() for line in _damaged(index)]
        if damaged:
            more = f" and {len(damaged) - 1} more shards" if len(damaged) > 1 else ""
            raise ValueError(f"{damaged[0]}{more}; `fourm tokenize --verify` encodes them again")
        tell("all ids are those that were written")
    return indices


def _damaged(index: Index) -> list[str]:
    lines = []
    for modality in index.modalities:
        for shard in index.holding(modality).tolist():
            path = index.path(index.parts.index(modality), shard)
            rows = TokenShard(path, int(index.shards[shard, 1]), int(index.shards[shard, 2])).damaged_rows()
            if len(rows):
                first = index.names.name(int(index.starts[shard] + rows[0]))
                lines.append(f"{path}: {len(rows)} samples, such as {first}, hold other ids than were written")
    return lines

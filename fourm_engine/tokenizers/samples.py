"""What a tokenizer is fitted on: arrays of raw training samples through the run's views, and held-out values.

In: `AlignedData` and a `ViewDrawer`. Out: `ArrayData` for training, a list of augmented values for measuring.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fourm_engine.data.aligned import AlignedData, BadFile
from fourm_engine.data.views import ViewDrawer, view_of
from fourm_engine.tokenizers.arrays import ArrayData

#: Held-out values that a reconstruction is measured on.
HELD_OUT = 512


def training_arrays(data: AlignedData, modality: str, drawer: ViewDrawer, *, views: int, cache_bytes: int) -> ArrayData:
    """Every view of every sample that has the modality; a file that cannot be used is left out as `on_error` says."""
    names = [name for name in data.names if modality in data.has(name)]
    spec = data.modalities[modality].spec
    if not drawer.augment and spec.array.kind != "text":
        views = 1  # the others show the same; only texts have alternatives

    def get(index: int) -> Any:
        name, number = names[index // views], index % views
        try:
            return data.array(name, modality, view_of(spec, drawer.views(data, name, number), number))
        except BadFile as bad:
            data.skip(name, bad)
            return None

    described = json.dumps([names, views, drawer.settings()], sort_keys=True)
    fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]
    return ArrayData(get, len(names) * views, fingerprint=fingerprint, cache_bytes=cache_bytes)


def held_out_values(data: AlignedData, modality: str, drawer: ViewDrawer, *, limit: int = HELD_OUT) -> list[Any]:
    """Values of the first `limit` samples that have the modality, through view 0."""
    return list(named_values(data, modality, drawer, limit=limit).values())


def named_values(data: AlignedData, modality: str, drawer: ViewDrawer, *, limit: int) -> dict[str, Any]:
    """Sample -> value, of the same."""
    spec, values = data.modalities[modality].spec, dict[str, Any]()
    for name in data.names:
        if len(values) == limit:
            break
        if modality not in data.has(name):
            continue
        try:
            value = data.value(name, modality)
            value = data.augment(name, modality, value, view_of(spec, drawer.views(data, name), 0))
            data.normalise(name, modality, value)  # such as a crop in which nothing was measured
        except BadFile as bad:
            data.skip(name, bad)
        else:
            values[name] = value
    return values

"""The data on which a tokenizer is fitted: arrays of raw training samples through the run's views, and held-out values.

In: `AlignedData` and a `ViewDrawer`. Out: `ArrayData` for training, kept in memory as far as it fits; a list of
augmented values for measuring; both also at other sizes than the modality's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import ViewDrawer, view_of
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, FeatureMap


class ArrayData:
    """`count` arrays of one modality, `get(index)` each; None from `get` stands for a sample that cannot be used, which
    whoever reads it has reported. `fingerprint` names the data: its samples and crops. `stamp` says which version of
    their files it is, where there are files: their sizes and times."""

    def __init__(
        self,
        get: Callable[[int], Any],
        count: int,
        *,
        fingerprint: str,
        cache_bytes: int = 1 << 30,
        stamp: Callable[[], str] = lambda: "",
    ) -> None:
        self._get = get
        self._count = count
        self.fingerprint, self.stamp = fingerprint, stamp
        self._room = cache_bytes
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        """The array at `index`, or the next usable one. Raises ValueError if there is none."""
        for offset in range(self._count):
            array = self._at((index + offset) % self._count)
            if array is not None:
                return array
        raise ValueError(f"none of the {counted(self._count, 'sample')} can be used")

    def __iter__(self) -> Iterator[Any]:
        """All usable arrays, in order."""
        for index in range(self._count):
            array = self._at(index)
            if array is not None:
                yield array

    def _at(self, index: int) -> Any:
        if index in self._kept:
            return self._kept[index]
        array = self._get(index)
        size = getattr(array, "nbytes", None) or (len(array) if isinstance(array, str) else 8)
        if size <= self._room:
            self._room -= size
            self._kept[index] = array
        return array


#: Held-out values on which reconstruction is measured.
HELD_OUT = 512


@dataclass(frozen=True)
class Sized:
    """The data for adapting to a size: the tokenizer's first modality at that size, training arrays as in the first
    fit, held-out values."""

    modality: Modality
    train: ArrayData
    val: Sequence[Any]


def training_arrays(
    parts: Sequence[AlignedData], modality: str, drawer: ViewDrawer, *, views: int, cache_bytes: int
) -> ArrayData:
    """Every view of every sample of all `parts` with the modality; a file that cannot be used is treated as `on_error`
    says. Raises ValueError if no part takes the modality."""
    parts = [data for data in parts if modality in data.modalities]
    if not parts:
        raise ValueError(f"no data set of data.train gives {modality}; add it to the modalities of one")
    names = [(data, name) for data in parts for name in data.names if modality in data.has(name)]
    spec = parts[0].modalities[modality].spec
    if not drawer.augment and spec.array.kind != "text":
        views = 1  # the others show the same; only texts have alternatives

    def get(index: int) -> Any:
        (data, name), number = names[index // views], index % views
        try:
            return data.array(name, modality, view_of(spec, drawer.views(data, name, number), number))
        except BadFile as bad:
            data.skip(name, bad)
            return None

    def stamp() -> str:
        digest = hashlib.sha256()
        for data, name in names:
            digest.update(data.stamp(name, modality).encode() + b"\0")
        return digest.hexdigest()[:16]

    described = json.dumps([[name for _, name in names], views, drawer.settings()], sort_keys=True)
    fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]
    return ArrayData(get, len(names) * views, fingerprint=fingerprint, cache_bytes=cache_bytes, stamp=stamp)


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


def at_sizes(
    modality: Modality,
    sizes: Sequence[tuple[int, int]],
    train: Sequence[AlignedData],
    held_out: AlignedData | None,
    config: DataConfig,
    *,
    seed: int,
    cache_bytes: int,
) -> list[Sized]:
    """A modality at other `sizes` (height, width): as many crops, at the same places, with each size's shape.
    `cache_bytes` is for all sizes together. Raises ValueError for a size that the patch does not divide."""
    array, sized = modality.spec.array, list[Sized]()
    assert isinstance(array, (FeatureMap, ClassMap))
    others = [size for size in dict.fromkeys(sizes) if size != (array.height, array.width)]
    for height, width in others:
        try:
            other = modality.at_size(height, width)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"adapt.sizes: {modality.name} at {height}x{width}: {reason}") from None
        modalities, name = {modality.name: other}, modality.name
        arrays = training_arrays(
            [part.replacing(other) for part in train if name in part.modalities],
            name,
            ViewDrawer.from_config(modalities, config, training=True, seed=seed),
            views=config.views,
            cache_bytes=cache_bytes // len(others),
        )
        values: list[Any] = []
        if held_out is not None:
            centre = ViewDrawer.from_config(modalities, config, training=False)
            values = held_out_values(held_out.replacing(other), name, centre)
        sized.append(Sized(other, arrays, values))
    return sized

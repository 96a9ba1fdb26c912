"""The data for fitting a tokenizer: arrays of raw training samples, through the run's views, and held-out values.

In: `AlignedData` and a `ViewDrawer`. Out: `ArrayData` for training, cached in memory up to a limit; a list of augmented
values for evaluation; both also at sizes other than the modality's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.sample import RawSample
from fourm_engine.data.views import DrawnViews, ViewDrawer, view_of
from fourm_plugins.counting import counted
from fourm_plugins.errors import one_line
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, FeatureMap, ModalitySpec
from fourm_plugins.view import View


class ArrayData:
    """`count` arrays of one modality, by `get(index)`, which returns None for an unusable sample that has already been
    reported. `fingerprint` identifies the data: its samples and crops. `stamp` identifies the version of the files, if
    there are any, by their sizes and times."""

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


#: Number of held-out values on which reconstruction is measured.
HELD_OUT = 512


@dataclass(frozen=True)
class Sized:
    """The data for adapting to a size: the tokenizer's first modality at that size, training arrays as in the first
    fit, held-out values."""

    modality: Modality
    train: ArrayData
    val: Sequence[Any]


def training_arrays(parts: Sequence[DrawnViews], modality: str, *, views: int, cache_bytes: int) -> ArrayData:
    """`views` of every sample of all `parts` with the modality; unusable files are handled according to `on_error`.
    Raises ValueError if no part uses the modality."""
    parts = [part for part in parts if modality in part.data.modalities]
    if not parts:
        raise ValueError(f"no data set of data.train gives {modality}; add it to the modalities of one")
    names = [(part, name) for part in parts for name in part.data.names if modality in part.data.has(name)]
    spec, drawer = parts[0].data.modalities[modality].spec, parts[0].drawer
    if not drawer.augment and spec.array.kind != "text":
        views = 1  # the others are equal; only texts have alternatives

    @lru_cache(maxsize=1)  # the views of a text are consecutive
    def read(row: int) -> tuple[DrawnViews, RawSample]:
        part, name = names[row]
        return part, RawSample(part.data, name)

    def get(index: int) -> Any:
        row, number = divmod(index, views)
        part, sample = read(row)
        try:
            return sample.array(modality, _seen(spec, part, sample, number))
        except BadFile as bad:
            part.data.skip(sample.name, bad)
            return None

    def stamp() -> str:
        digest = hashlib.sha256()
        for part, name in names:
            digest.update(part.data.stamp(name, modality).encode() + b"\0")
        return digest.hexdigest()[:16]

    described = json.dumps([[name for _, name in names], views, drawer.settings()], sort_keys=True)
    fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]
    return ArrayData(get, len(names) * views, fingerprint=fingerprint, cache_bytes=cache_bytes, stamp=stamp)


def _seen(spec: ModalitySpec, drawn: DrawnViews, sample: RawSample, number: int) -> View:
    """A modality's value through a view; the shape of the sample's picture is only read for modalities with crops."""
    cropped = spec.alignment is not None
    return view_of(spec, drawn.get(sample.name, number, sample.value) if cropped else {}, number)


def held_out_values(data: AlignedData, modality: str, drawer: ViewDrawer, *, limit: int = HELD_OUT) -> list[Any]:
    """Values of the first `limit` samples that have the modality, through view 0."""
    return list(named_values(data, modality, drawer, limit=limit).values())


def named_values(data: AlignedData, modality: str, drawer: ViewDrawer, *, limit: int) -> dict[str, Any]:
    """The same, as sample -> value."""
    spec, values, drawn = data.modalities[modality].spec, dict[str, Any](), DrawnViews(drawer, data, 1)
    for name in data.names:
        if len(values) == limit:
            break
        if modality not in data.has(name):
            continue
        sample = RawSample(data, name)
        try:
            value = sample.augmented(modality, _seen(spec, drawn, sample, 0))
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
    """A modality at other `sizes` (height, width), with the same number of crops at the same places, in each shape.
    `cache_bytes` is for all sizes together. Raises ValueError for a size that the patch does not divide."""
    array, sized = modality.spec.array, list[Sized]()
    assert isinstance(array, (FeatureMap, ClassMap))
    others = [size for size in dict.fromkeys(sizes) if size != (array.height, array.width)]
    for height, width in others:
        try:
            other = modality.at_size(height, width)
        except ValueError as error:
            reason = one_line(error)
            raise ValueError(f"adapt.sizes: {modality.name} at {height}x{width}: {reason}") from None
        modalities, name = {modality.name: other}, modality.name
        drawer = ViewDrawer.from_config(modalities, config, training=True, seed=seed)
        parts = [part.replacing(other) for part in train if name in part.modalities]
        drawn, room = [DrawnViews(drawer, part, config.views) for part in parts], cache_bytes // len(others)
        arrays = training_arrays(drawn, name, views=config.views, cache_bytes=room)
        values: list[Any] = []
        if held_out is not None:
            centre = ViewDrawer.from_config(modalities, config, training=False)
            values = held_out_values(held_out.replacing(other), name, centre)
        sized.append(Sized(other, arrays, values))
    return sized

"""Assigns samples to shards, and records their views: decided once, then kept.

In: the raw data and the recorded views. Out: shard -> its samples, and the `ViewShard` of a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.aspect import check_aspect, same_aspect
from fourm_engine.data.tokens.index import INDEX_FOLDER, Index
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, digest, shard_path
from fourm_engine.data.tokens.view_shards import ViewShard, write_views
from fourm_engine.data.views import SampleViews, ViewDrawer
from fourm_plugins.counting import counted
from fourm_plugins.errors import SampleError
from fourm_plugins.view import View


class ViewRecorder:
    """index: of the tokens in `out`, if any. Raises ValueError if views were recorded with other settings, or in
    another number."""

    def __init__(self, out: Path, data: AlignedData, drawer: ViewDrawer, views: int, index: Index | None) -> None:
        self.out, self.data, self.drawer, self.views, self.index = Path(out), data, drawer, views, index
        specs = [m.spec for m in data.modalities.values() if m.spec.alignment is not None]
        tokenized = {spec.files for spec in specs if not spec.continuous}
        # Their files may change shape, too, and no token shard records their stamps.
        self._without_tokens = [spec.name for spec in specs if spec.files not in tokenized]
        if index is not None and (index.settings, index.views) != (drawer.settings(), views):
            raise ValueError(
                f"{self.out / VIEWS_FOLDER}: recorded with {index.settings}, {counted(index.views, 'view')}, but the "
                f"config says {drawer.settings()}, {counted(views, 'view')}; restore data.augment, crop_scale, flip, "
                f"views and seed, or remove {self.out} and tokenize"
            )
        numbers = [] if index is None else index.shards[:, 0].tolist()
        self._at = {number: shard for shard, number in enumerate(numbers)}
        self._new: dict[int, list[str]] = {}

    def shards(self, size: int) -> list[int]:
        """The recorded shards, and new ones of the other samples, in order, `size` in each, with the first free
        numbers.

        The result does not depend on how many of them another process has recorded already."""
        names: Sequence[str] = self.data.names
        if self.index is not None:
            names = [names[at] for at in np.flatnonzero(self.index.names.rows(names) < 0).tolist()]
        self._new = new_shards(names, self._at, size)
        return sorted([*self._at, *self._new])

    def names(self, number: int) -> list[str]:
        """All samples of a shard, including dropped ones."""
        if number in self._new:
            return self._new[number]
        assert self.index is not None
        return self.index.names[self.index.rows_of(self._at[number])]

    def dropped(self, number: int) -> frozenset[str]:
        """The dropped samples of a shard."""
        if number in self._new or self.index is None:
            return frozenset()
        rows = self.index.rows_of(self._at[number])
        start, stop = np.searchsorted(self.index.dropped, [rows.start, rows.stop])
        return frozenset(self.index.names.name(int(row)) for row in self.index.dropped[start:stop])

    def recorded(self, number: int) -> bool:
        """Whether the views of a shard are recorded."""
        return self._path(number).is_file()

    def _path(self, number: int) -> Path:
        return shard_path(self.out / VIEWS_FOLDER, number)

    def record(self, number: int, drawn: Mapping[str, list[SampleViews]], dropped: frozenset[str]) -> ViewShard:
        """Record the views of a new shard. drawn: sample -> its views."""
        return self._write(number, drawn, [self._stamp(name) for name in drawn], dropped, self.drawer.groups)

    def settle(
        self,
        number: int,
        names: Sequence[str],
        dropped: frozenset[str],
        doubtful: frozenset[str],
        anchors: Callable[[str], list[str]],
    ) -> ViewShard:
        """The views of the samples of a shard; missing ones are recorded now.

        Views are kept as long as they fit the sample's pictures. They are redrawn if a file is new or has changed
        (`doubtful`), the picture's shape differs from the one they were drawn for, and none of `anchors(sample)`,
        modalities whose tokens were made through them, has pictures that they fit. Those of `dropped` samples are
        kept."""
        if not self.recorded(number):
            drawn = {name: self._draw(name, self.drawer.aspects(self.data, name)) for name in names}
            return self.record(number, drawn, dropped)
        recorded = ViewShard(self._path(number))
        if recorded.names != list(names):
            remedy = "remove that folder and run `fourm tokenize` again"
            raise ValueError(f"{recorded.path}: holds other samples than {self.out / INDEX_FOLDER} says; {remedy}")
        before = dict(zip(names, recorded.stamps()))
        stamps = {name: self._stamp(name) or before[name] for name in names}
        doubtful |= {name for name in names if stamps[name] != before[name]}
        lacking = [group for group in self.drawer.groups if group not in recorded.groups]
        fresh: dict[str, list[SampleViews]] = {}
        for name in names if lacking else [name for name in names if name in doubtful]:
            aspects = self.drawer.aspects(self.data, name)
            drawn_now = self._draw(name, aspects)
            groups = lacking + self._unfit(name, drawn_now[0], aspects, recorded.get(name, 0), anchors(name))
            if groups:
                fresh[name] = [{group: views[group] for group in groups} for views in drawn_now]
        if dropped == recorded.dropped and stamps == before and not fresh:
            return recorded
        rows = {name: [recorded.get(name, view) for view in range(self.views)] for name in names}
        for name, again in fresh.items():
            rows[name] = [{**old, **new} for old, new in zip(rows[name], again)]
        groups = sorted({*recorded.groups, *self.drawer.groups})
        return self._write(number, rows, list(stamps.values()), dropped, groups)

    def _unfit(
        self, name: str, drawn: SampleViews, aspects: Mapping[str, float], recorded: SampleViews, anchors: list[str]
    ) -> list[str]:
        """Groups whose recorded view no longer fits the sample."""
        return [
            group
            for group in aspects
            if group in recorded
            and not _same_shape(drawn[group], recorded[group])
            and not any(self._fits(name, modality, group, recorded[group]) for modality in anchors)
        ]

    def _fits(self, name: str, modality: str, group: str, view: View) -> bool:
        plugin = self.data.modalities[modality]
        if plugin.spec.alignment != group:
            return False
        try:
            value = self.data.value(name, modality)
            check_aspect(plugin, value, view)
        except (BadFile, SampleError):
            return False
        return plugin.aspect(value) is not None

    def _draw(self, name: str, aspects: Mapping[str, float]) -> list[SampleViews]:
        return [self.drawer.draw(name, number, aspects) for number in range(self.views)]

    def _stamp(self, name: str) -> int:
        has = self.data.has(name)
        return digest(*(f"{m} {self.data.stamp(name, m)}" for m in self._without_tokens if m in has))

    def _write(
        self,
        number: int,
        rows: Mapping[str, list[SampleViews]],
        stamps: Sequence[int],
        dropped: frozenset[str],
        groups: Sequence[str],
    ) -> ViewShard:
        path, settings = self._path(number), self.drawer.settings()
        write_views(path, rows, stamps, dropped=dropped, groups=groups, settings=settings, views=self.views)
        return ViewShard(path)


def new_shards(names: Sequence[str], taken: Collection[int], size: int) -> dict[int, list[str]]:
    """Shard -> `size` of the names, in order, numbered by the first free numbers."""
    free = (number for number in count() if number not in taken)
    return {next(free): list(names[start : start + size]) for start in range(0, len(names), size)}


def _same_shape(a: View, b: View) -> bool:
    """Whether two views were drawn for pictures of the same shape, up to rounding to pixels."""
    return same_aspect(a.height / a.width, b.height / b.width)

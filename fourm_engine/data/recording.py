"""Which samples each shard holds, and through which views they are seen: decided once, then kept.

In: the raw data and the views that are recorded. Out: shard -> its samples, and for one shard `RecordedViews`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

from fourm_engine.data.aligned import AlignedData
from fourm_engine.data.aspect import check_aspect, same_aspect
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.shards import VIEWS_FOLDER, digest, shard_path, shard_paths
from fourm_engine.data.view_shards import RecordedViews, write_views
from fourm_engine.data.views import SampleViews, ViewDrawer
from fourm_plugins.errors import SampleError
from fourm_plugins.view import View


class ViewRecorder:
    """Raises ValueError where views are recorded with other settings, or another number of them."""

    def __init__(self, out: Path, data: AlignedData, drawer: ViewDrawer, views: int) -> None:
        self.out, self.data, self.drawer, self.views = Path(out), data, drawer, views
        specs = [m.spec for m in data.modalities.values() if m.spec.alignment is not None]
        tokenized = {spec.files for spec in specs if not spec.continuous}
        # Their files may change shape, too, and no token shard records their stamps.
        self._without_tokens = [spec.name for spec in specs if spec.files not in tokenized]
        self._shards: dict[int, list[str]] = {}
        if shard_paths(self.out / VIEWS_FOLDER):
            recorded = RecordedViews(self.out)
            for path, names, metadata in zip(recorded.paths, recorded.shards, recorded.metadata):
                self._check(path, metadata)
                self._shards[int(path.stem.rpartition("-")[2])] = names

    def _check(self, path: Path, metadata: Mapping[str, str]) -> None:
        found = (json.loads(metadata["settings"]), int(metadata["views"]))
        if found != (self.drawer.settings(), self.views):
            raise ValueError(
                f"{path}: recorded with {found[0]}, {found[1]} views, but the config says {self.drawer.settings()}, "
                f"{self.views} views; restore data.augment, crop_scale, flip, views and seed, or remove {self.out} and "
                f"tokenize"
            )

    def shards(self, size: int) -> dict[int, list[str]]:
        """Shard -> its samples: those recorded, and the others, in order, `size` in each of the first free shards.

        The result does not depend on how many of them another process has recorded already."""
        known = frozenset().union(*self._shards.values())
        new = [name for name in self.data.names if name not in known]
        free = (index for index in count() if index not in self._shards)
        added = {next(free): new[start : start + size] for start in range(0, len(new), size)}
        return dict(sorted({**self._shards, **added}.items()))

    def settle(
        self, index: int, names: Sequence[str], doubtful: frozenset[str], anchors: Callable[[str], list[str]]
    ) -> RecordedViews:
        """The views of the samples of a shard, recorded now as far as they were not.

        Those of a sample stay as long as they fit its pictures. They are drawn anew where a file is new or has changed
        (`doubtful`), the picture has another shape than the one they were drawn for, and none of `anchors(sample)`,
        modalities whose tokens were made through them, has pictures that they fit."""
        path = shard_path(self.out / VIEWS_FOLDER, index)
        if not path.is_file():
            drawn = {name: self._draw(name, self.drawer.aspects(self.data, name)) for name in names}
            self._write(index, drawn, [self._stamp(name) for name in names], self.drawer.groups)
            return RecordedViews(self.out, index)
        recorded = RecordedViews(self.out, index)
        before = recorded.column("stamp")
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
        if names == recorded.names and stamps == before and not fresh:
            return recorded
        rows = {name: [recorded.get(name, number) for number in range(self.views)] for name in names}
        for name, again in fresh.items():
            rows[name] = [{**old, **new} for old, new in zip(rows[name], again)]
        self._write(index, rows, list(stamps.values()), sorted({*recorded.groups, *self.drawer.groups}))
        return RecordedViews(self.out, index)

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
        stamps = (f"{m} {self.data.stamp(name, m)}" for m in self._without_tokens if name in self.data.having(m))
        return digest(*stamps)

    def _write(
        self, index: int, rows: Mapping[str, list[SampleViews]], stamps: Sequence[int], groups: Sequence[str]
    ) -> None:
        write_views(self.out, index, rows, stamps, groups=groups, settings=self.drawer.settings(), views=self.views)


def _same_shape(a: View, b: View) -> bool:
    """Whether two views were drawn for pictures of one shape, up to what rounding to pixels makes of it."""
    return same_aspect(a.height / a.width, b.height / b.width)

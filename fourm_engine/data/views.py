"""Which part of a sample its modalities see: one crop and flip per alignment group.

In: the active modalities, the aspect of a sample's picture, a generator. Out: `SampleViews`, group -> View; recorded by
`fourm tokenize` as float64 rows, so that tokens made today and pixels read tomorrow show the same crop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.order import name_rng
from fourm_engine.data.raw.aspect import Vote, array_aspect
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.view import View

if TYPE_CHECKING:  # a loaded model draws views, and opens no data
    from fourm_engine.data.config import DataConfig
    from fourm_engine.data.raw.aligned import AlignedData

SampleViews = dict[str, View]
#: Random crops that are not recorded are drawn anew each time, among this many.
FRESH_VIEWS = 1 << 20
#: Samples whose pictures' shapes a process remembers, the first to come: some 80 MB.
REMEMBERED = 1 << 18


def view_of(spec: ModalitySpec, views: SampleViews, number: int) -> View:
    """What a modality sees in view `number`: its group's view, or the whole sample if it has no group."""
    return View(variant=number) if spec.alignment is None else views[spec.alignment]


class ViewDrawer:
    """Draws views. View `number` of a sample depends on (seed, name, number, settings) and its aspect alone.

    Without `augment` every view is the largest centred crop of the shape of the group's arrays. Raises ValueError if
    two of one group differ in shape, since one crop cannot serve both."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        *,
        augment: bool = False,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        flip: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.augment, self.crop_scale, self.flip, self.seed = augment, crop_scale, flip, seed
        self._aligned: dict[str, list[str]] = {}
        self._target: dict[str, tuple[float, str]] = {}
        for name in sorted(modalities):
            spec = modalities[name].spec
            if spec.alignment is None:
                continue
            self._aligned.setdefault(spec.alignment, []).append(name)
            if (aspect := array_aspect(spec)) is not None:
                first, other = self._target.setdefault(spec.alignment, (aspect, name))
                if abs(first - aspect) > 1e-3 * aspect:
                    raise ValueError(
                        f"{other} and {name} share the crops of group {spec.alignment!r}, but their arrays have "
                        f"width / height {first:.4g} and {aspect:.4g}; give them one shape, or their own alignment"
                    )
        self.groups = sorted(self._aligned)

    @classmethod
    def from_config(
        cls, modalities: Mapping[str, Modality], config: DataConfig, *, training: bool, seed: int = 0
    ) -> ViewDrawer:
        """Validation (`training=False`) sees centre crops."""
        augment = config.augment and training
        return cls(modalities, augment=augment, crop_scale=config.crop_scale, flip=config.flip, seed=seed)

    def settings(self) -> dict:
        """What a recorded view depends on, JSON-ready, to compare with a later run's."""
        if not self.augment:
            return {"augment": False}
        return {"augment": True, "crop_scale": list(self.crop_scale), "flip": self.flip, "seed": self.seed}

    def aspects(self, data: AlignedData, name: str, value: Callable[[str], Any] | None = None) -> dict[str, float]:
        """Group -> width / height of the sample's picture, by a vote of the group's files, so that a single turned one
        is outvoted. Ties go to what more modalities read, then to the first by name.

        value: a function that gives the value of a modality that was read already, or raises BadFile. By default it is
        read, and a file that cannot be used is reported."""
        aspects, has = {}, data.has(name)
        for group, members in self._aligned.items():
            readers: dict[tuple, list[str]] = {}
            for modality in members:
                spec = data.modalities[modality].spec
                if modality in has and array_aspect(spec) is not None:
                    readers.setdefault(spec.files, []).append(modality)
            vote = Vote()
            for left, modalities in zip(range(len(readers), 0, -1), readers.values()):
                if vote.decided(left):
                    break
                aspect = self._aspect(data, name, modalities, value)
                if aspect is not None:
                    vote.add(modalities[0], aspect, len(modalities))
            if vote.shapes:
                aspects[group] = vote.ranked()[0].aspect
        return aspects

    def _aspect(
        self, data: AlignedData, name: str, modalities: list[str], value: Callable[[str], Any] | None
    ) -> float | None:
        """Width / height by the first of `modalities`, which all read the same file, that has one."""
        for modality in modalities:
            try:
                return data.modalities[modality].aspect(value(modality) if value else data.value(name, modality))
            except BadFile as bad:
                if value is None:
                    data.skip(name, bad)
        return None

    def draw(self, name: str, number: int, aspects: Mapping[str, float]) -> SampleViews:
        """Views of all groups. A group without an aspect is assumed to have its arrays' shape."""
        views = {}
        for group in self.groups:
            target = self._target.get(group, (1.0, ""))[0]
            source = aspects.get(group, target)
            if self.augment:
                views[group] = View.random(
                    name_rng(self.seed, name, group, number),
                    source_aspect=source,
                    target_aspect=target,
                    scale=self.crop_scale,
                    flip=self.flip,
                    variant=number,
                )
            else:
                views[group] = View.centre(source_aspect=source, target_aspect=target, variant=number)
        return views


class DrawnViews:
    """The views of the samples of `data`, drawn when needed; `RecordedViews` are stored ones. Each sample has `views`
    of them, or with random crops so many that none is likely to repeat."""

    def __init__(self, drawer: ViewDrawer, data: AlignedData, views: int) -> None:
        self.drawer, self.data = drawer, data
        self.views = FRESH_VIEWS if drawer.augment else views
        self._aspects: dict[str, dict[str, float]] = {}

    def get(self, name: str, number: int, value: Callable[[str], Any] | None = None) -> SampleViews:
        """`value`: as `ViewDrawer.aspects` takes it."""
        if (aspects := self._aspects.get(name)) is None:
            aspects = self.drawer.aspects(self.data, name, value)
            if len(self._aspects) < REMEMBERED:
                self._aspects[name] = aspects
        return self.drawer.draw(name, number, aspects)

    def identity(self) -> dict[str, Any]:
        """Says how the views are drawn."""
        return {**self.drawer.settings(), "views": self.views}

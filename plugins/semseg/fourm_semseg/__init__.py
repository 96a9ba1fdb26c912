"""Semantic class maps.

Files: PNG with one channel of class ids; one id may mean "no class" (`ignore`). Value: int64 (H, W), -1 where a pixel
has no class. Array: the same, or with `void_first` one more everywhere, so that 0 means "no class".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fourm_plugins import ClassMap, Modality
from fourm_plugins.bases import ClassGrid, ClassSettings
from fourm_plugins.labelling import label_options, model_needed
from fourm_semseg.labeller import SemSegLabeller, SemSegOptions


class SemSegSettings(ClassSettings):
    small: ClassVar[Mapping[str, Any]] = {**ClassSettings.small, "num_classes": 6}

    source: str = "semseg"
    codebook_size: int = 4096
    #: By default, unless `classes` is given, as many labels as the published tokenizers have.
    num_classes: int = Field(default=134, ge=2, le=65535)
    #: Whether class 0 of the array means "no class", and classes count from 1.
    void_first: bool = False


class SemSeg(ClassGrid):
    Settings = SemSegSettings
    #: 134 labels: the 133 classes of COCO, and none.
    published_settings: ClassVar = {"num_classes": 133, "void_first": True}
    claims = frozenset({"exact_files"})
    folders = ("label", "mask", "seg", "segmentation", "semantic", "class", "annotation")
    published_prefix = "tok_semseg"
    licence = "Apache-2.0"
    description = "semantic classes"

    def make_array(self) -> ClassMap:
        array = super().make_array()
        return array.model_copy(update={"classes": array.classes + self.settings.void_first})

    def normalise(self, value: np.ndarray) -> np.ndarray:
        return super().normalise(value) + int(self.settings.void_first)

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        return super().denormalise(array - int(self.settings.void_first))

    def class_names(self) -> tuple[str, ...]:
        names = super().class_names()
        return ("none", *names) if names and self.settings.void_first else names

    def label_sources(self, model: str | None) -> tuple[str, ...]:
        return ("rgb",)

    def labeller(self, source: Modality, model: str | None, **options: Any) -> SemSegLabeller:
        """Class maps of pictures; `model` is a segmentation model's Hub name or folder. Options: `SemSegOptions`."""
        if model is None:
            raise model_needed(self.name, "a segmentation model", "nvidia/segformer-b0-finetuned-ade-512-512")
        return SemSegLabeller(
            model,
            label_options(SemSegOptions, options, target=self.name),
            classes=self.settings.classes,
            number=self.settings.num_classes,
            ignored=self.settings.ignore is not None,
        )

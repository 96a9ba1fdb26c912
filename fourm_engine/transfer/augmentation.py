"""Augment the pictures of training samples with torchvision: RandAugment, colour jitter.

In: pictures through their views, uint8 (H, W, 3). Out: augmented pictures, a pure function of (seed, sample, view).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from fourm_engine.data.config import DataConfig
from fourm_engine.data.order import name_rng
from fourm_engine.transfer.config import TaskConfig
from fourm_engine.transfer.vision import torchvision
from fourm_plugins.modality import Modality

#: RandAugment's strengths range from 0 to 10; torchvision's are divided into this many steps.
STEPS = 1001
HUE = 0.25  # as a fraction of the jitter of brightness, contrast and saturation


class PictureAugmentation:
    """Augments the pictures of a sample. Raises ValueError if no input is a picture, or if a geometric operation would
    break the alignment with another input."""

    def __init__(self, config: TaskConfig, inputs: Mapping[str, Modality[Any]], *, seed: int) -> None:
        self.strength, self.jitter = getattr(config, "rand_augment", None), config.colour_jitter
        self.setting, self.seed = "task.rand_augment" if self.strength else "task.colour_jitter", seed
        self.pictures = frozenset(name for name, modality in inputs.items() if _is_picture(modality))
        if not self.pictures:
            raise ValueError(f"{self.setting} is for pictures, and none of the inputs is one; leave it out")
        if self.strength and sum(modality.spec.alignment is not None for modality in inputs.values()) > 1:
            raise ValueError(
                f"{self.setting} turns and moves pictures, and there are two inputs that must stay aligned; leave it "
                f"out, or set task.colour_jitter"
            )
        self._transforms = torchvision("transforms", what=f"{self.setting} needs")

    def __call__(self, name: str, modality: str, view: int, value: Any) -> Any:
        if modality not in self.pictures:
            return value
        rng = name_rng(self.seed, name, "altering", view)  # shared by all pictures of a sample
        picture = Image.fromarray(value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 62)))
            if self.strength is not None:
                mean, deviation = self.strength
                level = float(np.clip(rng.normal(mean, deviation), 0, 10)) * (STEPS - 1) / 10
                picture = self._transforms.RandAugment(2, round(level), STEPS)(picture)
            if self.jitter:
                hue = min(HUE * self.jitter, 0.5)
                picture = self._transforms.ColorJitter(self.jitter, self.jitter, self.jitter, hue)(picture)
        return np.asarray(picture)


def augmentation_of(
    config: TaskConfig, inputs: Mapping[str, Modality[Any]], data: DataConfig, *, seed: int
) -> PictureAugmentation | None:
    """The augmentation of a task, if any. Raises ValueError without `data.augment`, which provides new views of each
    sample, each with a new draw."""
    if not (config.colour_jitter or getattr(config, "rand_augment", None)):
        return None
    augmentation = PictureAugmentation(config, inputs, seed=seed)
    if not data.augment:
        setting = augmentation.setting
        raise ValueError(f"{setting} needs data.augment: true (with data.crop_scale: [1, 1], without crops)")
    return augmentation


def _is_picture(modality: Modality[Any]) -> bool:
    """Whether its values are colours, uint8 (H, W, 3)."""
    value = modality.read(modality.example_samples(1, 0)[0])
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3

"""`human_poses` and `sam_instance`: people and instances as texts that hold codes of another network.

Files: UTF-8 text in the form of 4M-21 (README.md). Value: the tuple of its lines, of which a view chooses one. Their
coordinates are those of one crop, which no view changes: train with `data.augment: false` on pictures of that crop.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fourm_more21.named import Named
from fourm_plugins.bases import TextSequence, TextSequenceSettings


class PosesSettings(TextSequenceSettings):
    max_tokens: int = Field(default=275, ge=2, le=8192)


class _Coded(Named, TextSequence):
    alignment = None
    licence = "Apache-2.0"


class HumanPoses(_Coded):
    Settings = PosesSettings
    published_settings: ClassVar = {"max_tokens": 275}
    published_name = "human_poses"
    description = "poses of people, as text with codes"

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index in range(n):
            rng = np.random.default_rng([seed, index, 15])
            box, pose = rng.integers(0, 8, 4), rng.integers(0, 8, 8)
            text = [*(f"v{i}={x}" for i, x in enumerate(box)), "pose", *(f"v0={x}" for x in pose)]
            samples.append(self.write(" ".join(["human", *text]) if index % 3 else "none"))
        return samples


class InstancesSettings(TextSequenceSettings):
    max_tokens: int = Field(default=290, ge=2, le=8192)


class SamInstances(_Coded):
    Settings = InstancesSettings
    published_settings: ClassVar = {"max_tokens": 290}
    published_name = "sam_instance"
    description = "instances around points, as text with codes"

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index in range(n):
            numbers: Any = np.random.default_rng([seed, index, 16]).integers(0, 8, 6)
            point = f"point v0={numbers[0]} v1={numbers[1]}"
            polygon = " ".join(["polygon", *(f"v{i}={x}" for i, x in enumerate(numbers[2:]))])
            samples.append(self.write(f"{point} {polygon if index % 3 else 'none'}"))
        return samples

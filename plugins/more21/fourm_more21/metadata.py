"""Metadata: numbers about a picture, its caption and what is in it, each of a known kind.

Files: a JSON object {kind: number} of some of `KINDS`. Value: the same as a dict. Array: text, for each kind the tokens
`v1=kind v0=bin`, in an order that the view draws.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fourm_plugins import Metric, SampleError, View, images
from fourm_plugins.bases import SequenceModality, SequenceSettings

Numbers = dict[str, float]
#: Kind -> its range (least, most); the step from bin to bin, 1 for counts; or the thresholds, and a bin is how many of
#: them are reached.
KINDS: dict[str, tuple[str, tuple[float, ...]]] = {
    "original_width": ("step", (32,)),
    "original_height": ("step", (32,)),
    "caption_n_chars": ("step", (1,)),
    "caption_n_words": ("step", (1,)),
    "caption_n_sentences": ("step", (1,)),
    "n_humans": ("step", (1,)),
    "n_sam_instances": ("step", (1,)),
    "n_coco_instances": ("step", (1,)),
    "coco_instance_diversity": ("step", (1,)),
    "colorfulness": ("range", (0, 150)),
    "brightness": ("range", (0, 255)),
    "contrast": ("range", (0, 127)),
    "saturation": ("range", (0, 255)),
    "entropy": ("range", (0, 10)),
    "walkability": ("range", (0, 1)),
    "objectness": ("range", (0, 1)),
    "semantic_diversity": ("step", (1,)),
    "geometric_complexity": ("range", (0, 0.75)),
    "occlusion_score": ("range", (0, 0.25)),
    "watermark_score": ("thresholds", (0.5,)),
    "aesthetic_score": ("thresholds", (4.5, 5.5)),
}
_NAMES = tuple(KINDS)
#: Bins of a range are int(x * 49).
_BINS = 49
_PAIR = re.compile(r"v1\s*=\s*(\d{1,4})\s*v0\s*=\s*(\d{1,4})(?!\d)")
_MAX_BYTES = 1_000_000


def bin_of(kind: str, number: float) -> int:
    how, facts = KINDS[kind]
    if how == "range":
        low, high = facts
        return int((min(max(number, low), high) - low) / (high - low) * _BINS)
    if how == "thresholds":
        return sum(number >= threshold for threshold in facts)
    return min(max(int(number // facts[0]), 0), 999)


def number_of(kind: str, index: int) -> float:
    """A number in that bin: the middle of a range's, the least of any other."""
    how, facts = KINDS[kind]
    if how == "range":
        low, high = facts
        return min(low + (high - low) * (index + 0.5) / _BINS, high)
    if how == "thresholds":
        return (0.0, *facts)[min(index, len(facts))]
    return index * facts[0]


class MetadataSettings(SequenceSettings):
    small: ClassVar[Mapping[str, Any]] = SequenceSettings.small
    max_tokens: int = Field(default=40, ge=2, le=8192)


class Metadata(SequenceModality[Numbers]):
    Settings = MetadataSettings
    published_settings: ClassVar = {"max_tokens": 40}
    published_name = "metadata"
    extensions = ("json",)
    alignment = None
    accepts = "{kind: number}, such as {'brightness': 120}"
    licence = "Apache-2.0"
    description = "numbers about a picture"

    def read(self, files: Mapping[str, bytes]) -> Numbers:
        return self.from_object(images.only_json(files, self.extensions, "metadata", most=_MAX_BYTES))

    def from_object(self, given: Any) -> Numbers:
        if not isinstance(given, Mapping):
            raise self.refusal(given)
        numbers = {}
        for kind, number in given.items():
            if kind not in KINDS or number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, (int, float)) or abs(number) > 1e300:
                raise SampleError(f"metadata {kind!r} is {number!r:.40}; a number is needed")
            if not math.isfinite(number):
                raise SampleError(f"metadata {kind!r} is {number}; a finite number is needed")
            numbers[kind] = number
        if not numbers:
            raise SampleError(f"none of the known kinds of metadata; they are {', '.join(_NAMES)}")
        return numbers

    def from_array(self, array: np.ndarray) -> Numbers:
        raise self.refusal(array, "an array does not say which number is which")

    def from_text(self, text: str) -> Numbers:
        """JSON as in a file, or tokens as the model writes them."""
        if text.lstrip()[:1] == "{":
            return super().from_text(text)
        numbers = self.denormalise(text)
        if not numbers or _PAIR.sub("", text).strip():
            raise SampleError(f"{text[:60]!r} is no metadata; type `v1=kind v0=bin ...`, or JSON")
        return numbers

    def write(self, value: Numbers) -> dict[str, bytes]:
        return {"json": json.dumps(value).encode()}

    def augment(self, value: Numbers, view: View) -> Numbers:
        rng = np.random.default_rng(zlib.crc32(repr((view, sorted(value.items()))).encode()))
        kinds = list(value)
        return {kinds[i]: value[kinds[i]] for i in rng.permutation(len(kinds))}

    def normalise(self, value: Numbers) -> str:
        return " ".join(f"v1={_NAMES.index(kind)} v0={bin_of(kind, number)}" for kind, number in value.items())

    def denormalise(self, array: np.ndarray | str) -> Numbers:
        """What can be read of any text; of a kind that occurs twice, the first."""
        assert isinstance(array, str)
        numbers: Numbers = {}
        for kind, index in _PAIR.findall(array):
            if int(kind) < len(_NAMES):
                numbers.setdefault(_NAMES[int(kind)], number_of(_NAMES[int(kind)], int(index)))
        return numbers

    def render(self, value: Numbers) -> str:
        return "\n".join(f"{kind} {number:.4g}" for kind, number in value.items())

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("bins that are right", _right, True),)

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index in range(n):
            rng = np.random.default_rng([seed, index, 13])
            light = float(rng.integers(0, 5)) / 5
            value = {"original_width": 640, "brightness": 255 * light, "contrast": 100 * light, "n_humans": 2}
            samples.append(self.write(value))
        return samples


def _right(predictions: Sequence[Numbers], truths: Sequence[Numbers]) -> float:
    """Share of the true kinds whose bin was predicted; 0 if there are none."""
    pairs = [
        kind in p and bin_of(kind, p[kind]) == bin_of(kind, number)
        for p, t in zip(predictions, truths, strict=True)
        for kind, number in t.items()
    ]
    return float(np.mean(pairs)) if pairs else 0.0

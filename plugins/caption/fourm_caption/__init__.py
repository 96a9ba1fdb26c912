"""Captions.

Files: UTF-8 text, one caption a line; the lines are alternatives. Value: the tuple of them; seen through a view, one
str. Array: that str.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fourm_caption.labeller import CaptionLabeller, CaptionOptions
from fourm_plugins import Modality, View
from fourm_plugins.bases import TextSequence, TextSequenceSettings
from fourm_plugins.bases.text import Lines
from fourm_plugins.contrastive import contrastive
from fourm_plugins.labelling import label_options, model_needed

_SIDE = re.compile(r"\b(left|right)(?=(?:most|ward|wards|hand)?\b)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


class CaptionSettings(TextSequenceSettings):
    source: str = "caption"


class Caption(TextSequence):
    Settings = CaptionSettings
    claims = frozenset({"exact_files"})
    folders = ("text", "txt", "description", "prompt", "sentence")
    published_name = "caption"
    licence = "Apache-2.0"
    description = "a sentence about the picture"

    def augment(self, value: Lines, view: View) -> Lines:
        """The alternative that the view chooses. In a mirrored picture, left and right are swapped."""
        text = super().augment(value, view)
        return _SIDE.sub(_swap, text) if view.flip else text

    def contrastive(self, model: str) -> Callable[[Sequence[Lines]], np.ndarray]:
        """Of alternatives the first counts."""
        texts = contrastive(model, install="fourm-caption[label]").texts
        return lambda values: texts([v if isinstance(v, str) else (v or ("",))[0] for v in values])

    def label_sources(self, model: str | None) -> tuple[str, ...]:
        return ("rgb",)

    def labeller(self, source: Modality, model: str | None, **options: Any) -> CaptionLabeller:
        """Captions of pictures; `model` is a captioning model's Hub name or folder. Options: `CaptionOptions`."""
        if model is None:
            raise model_needed(self.name, "a captioning model", "Salesforce/blip-image-captioning-base")
        return CaptionLabeller(model, label_options(CaptionOptions, options, target=self.name))

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        samples = []
        for index in range(n):
            rng = np.random.default_rng([seed, index, 5])
            number, colour, kind = (
                rng.choice(words) for words in (("one", "two"), ("red", "blue"), ("disc", "square"))
            )
            side = rng.choice(("left", "right"))
            lines = f"{number} {colour} {kind} on the {side}", f"a picture with a {colour} {kind} at its {side} side"
            samples.append(self.write(lines))
        return samples


def _swap(match: re.Match[str]) -> str:
    word = match.group(0)
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

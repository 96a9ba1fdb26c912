"""CaptionLabeller: sentences about pictures, with a captioning model of `transformers` that needs no prompt (BLIP, a
vision encoder-decoder, …).

Takes pictures uint8 (H, W, 3) and gives a tuple of captions for each, the likeliest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from fourm_plugins import Labeller, SampleError
from fourm_plugins.labelling import NetworkOptions, PictureNetwork, load_words

_KINDS = ("AutoModelForImageTextToText", "AutoModelForVision2Seq")  # the second is the name before transformers 5


class CaptionOptions(NetworkOptions):
    max_new_tokens: int = Field(default=40, ge=1)
    #: Beams of the search; nothing is sampled, so that the same picture gets the same captions.
    beams: int = Field(default=3, ge=1)
    #: Different captions per picture; at most `beams`.
    captions: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _enough(self) -> CaptionOptions:
        if self.captions > self.beams:
            raise ValueError(f"captions {self.captions} are more than beams {self.beams}")
        return self


class CaptionLabeller(Labeller):
    def __init__(self, model: str, options: CaptionOptions) -> None:
        what, self._options = "a captioning model", options
        self._net = PictureNetwork(model, _kinds(), what=what, install="fourm-caption[label]", options=options)
        self._words = load_words(model)

    def label(self, values: Sequence[np.ndarray]) -> list[Any]:
        number = self._options.captions

        def compute(inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[tuple[str, ...]]:
            ids = self._net.network.generate(
                pixel_values=inputs["pixel_values"],
                max_new_tokens=self._options.max_new_tokens,
                num_beams=self._options.beams,
                num_return_sequences=number,
                do_sample=False,
            )
            lines = [" ".join(line.split()) for line in self._words.batch_decode(ids, skip_special_tokens=True)]
            return [
                tuple(dict.fromkeys(line for line in lines[i * number : (i + 1) * number] if line))
                for i in range(len(sizes))
            ]

        return [lines or SampleError("the model says nothing") for lines in self._net.run(values, compute)]


def _kinds() -> tuple[str, ...]:
    """Those that the installed library has; all where it is not installed, which loading then says."""
    try:
        import transformers
    except ImportError:
        return _KINDS
    return tuple(kind for kind in _KINDS if hasattr(transformers, kind))

"""Captions.

Files: UTF-8 text, one caption a line; the lines are alternatives. Value: the tuple of them; seen through a view, one
str. Array: that str.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fourm_plugins import Metric, Modality, ModalitySpec, SampleError, Settings, Text, View, images
from fourm_plugins import Sequence as SequenceLayout
from fourm_plugins.text import TextSettings

Value = tuple[str, ...] | str

_EXTENSIONS = ("txt",)
_MAX_BYTES = 1_000_000
_SIDE = re.compile(r"\b(left|right)(?=(?:most|ward|wards|hand)?\b)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


class CaptionSettings(Settings):
    small: ClassVar[Mapping[str, Any]] = {"text": TextSettings.small, "max_tokens": 48}

    text: TextSettings = TextSettings()
    max_tokens: int = Field(default=256, ge=2, le=8192)
    max_characters: int = Field(default=4096, ge=16)
    #: Folder of the data set that is read.
    source: str = "caption"


class Caption(Modality[Value]):
    Settings = CaptionSettings
    claims = frozenset({"exact_files"})

    def make_spec(self) -> ModalitySpec:
        return ModalitySpec(
            name=self.name,
            layout=SequenceLayout(max_tokens=self.settings.max_tokens),
            array=Text(max_characters=self.settings.max_characters),
            token_space=self.settings.text.token_space(),
            tokenizer=self.settings.text.recipe(),
            source=self.settings.source,
            extensions=_EXTENSIONS,
            published_name="caption",
            licence="Apache-2.0",
            description="a sentence about the picture",
        )

    def read(self, files: Mapping[str, bytes]) -> Value:
        content = images.only_file(files, _EXTENSIONS)[1]
        if len(content) > _MAX_BYTES:
            raise SampleError(f"caption file of {len(content)} bytes; at most {_MAX_BYTES} are read")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SampleError(f"caption is not UTF-8: {error}") from error
        if "\0" in text:
            raise SampleError("caption holds a NUL character: not a text file")
        lines = tuple(line for line in (" ".join(raw.split()) for raw in text.splitlines()) if line)
        if not lines:
            raise SampleError("empty caption: the file holds no words")
        for line in lines:
            if len(line) > self.settings.max_characters:
                raise SampleError(f"caption of {len(line)} characters; at most {self.settings.max_characters} are read")
        return lines

    def write(self, value: Value) -> dict[str, bytes]:
        return {"txt": ("\n".join(_lines(value)) + "\n").encode()}

    def augment(self, value: Value, view: View) -> Value:
        """The view's choice among the alternatives. In a mirrored picture left is right."""
        lines = _lines(value)
        text = lines[view.variant % len(lines)]
        return _SIDE.sub(_swap, text) if view.flip else text

    def normalise(self, value: Value) -> str:
        return _lines(value)[0]

    def denormalise(self, array: np.ndarray | str) -> Value:
        assert isinstance(array, str)
        return array

    def render(self, value: Value) -> str:
        return "\n".join(_lines(value))

    def metrics(self) -> tuple[Metric, ...]:
        return Metric("word F1", word_f1, True), Metric("length ratio", length_ratio, True)

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


def word_f1(predictions: Sequence[Value], truths: Sequence[Value]) -> float:
    """Mean over samples of the harmonic mean of precision and recall of lower-case words, counted with repetition; the
    best over the true alternatives."""
    return _mean(
        max(_f1(_words(p), _words(line)) for line in _lines(t)) for p, t in zip(predictions, truths, strict=True)
    )


def length_ratio(predictions: Sequence[Value], truths: Sequence[Value]) -> float:
    """Mean of the shorter's words over the longer's; of the true alternative nearest in length."""
    ratios = []
    for p, t in zip(predictions, truths, strict=True):
        said = len(_words(p))
        ratios.append(max(min(said, k) / max(said, k, 1) for k in (len(_words(line)) for line in _lines(t))))
    return _mean(ratios)


def _mean(numbers: object) -> float:
    return float(np.mean(list(numbers)))  # type: ignore[call-overload]


def _lines(value: Value) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _words(value: Value) -> list[str]:
    return re.findall(r"\w+", _lines(value)[0].lower())


def _f1(said: list[str], true: list[str]) -> float:
    both = (Counter(said) & Counter(true)).total()
    return 2 * both / (len(said) + len(true)) if both else 0.0


def _swap(match: re.Match[str]) -> str:
    word = match.group(0)
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

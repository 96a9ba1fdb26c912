"""SequenceModality: anything that can be written as text. TextSequence: text itself.

TextSequence. Files: UTF-8, one text per line (ending in LF, CR LF or CR); the lines are alternatives. Value: the tuple
of them; after a view, one str. Array: that str.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from fourm_plugins import images
from fourm_plugins.bases.standard import StandardModality
from fourm_plugins.counting import counted
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Metric, Value
from fourm_plugins.recognition import Recognised, contents, next_power, usable
from fourm_plugins.settings import Settings
from fourm_plugins.spec import ModalitySpec, Text
from fourm_plugins.spec import Sequence as SequenceLayout
from fourm_plugins.text import TextSettings
from fourm_plugins.view import View

Lines = tuple[str, ...] | str
_MAX_BYTES = 1_000_000
#: Not `str.splitlines`, which also breaks lines at characters within a sentence, such as U+2028 or a vertical tab.
_LINE_END = re.compile(r"\r\n|\n|\r")
_WORDS = ("small", "large", "bright", "dark", "round", "square", "near", "far")


class SequenceSettings(Settings):
    """Settings of all modalities of text."""

    small: ClassVar[Mapping[str, Any]] = {"text": TextSettings.small, "max_tokens": 48}
    run_only = frozenset({"source", "masker"})

    text: TextSettings = TextSettings()
    max_tokens: int = Field(default=256, ge=2, le=8192)
    #: Folder of the data set to read; by default the modality's name up to an "@".
    source: str | None = None
    #: Kind of masker, in place of the layout's default.
    masker: str | None = None


class TextSequenceSettings(SequenceSettings):
    max_characters: int = Field(default=4096, ge=16)


class SequenceModality(StandardModality[Value]):
    """Define `read`, `write`, `augment`, `normalise`, `denormalise`, `render`, `metrics` and `example_samples`."""

    Settings: ClassVar[type[BaseModel]] = SequenceSettings
    published_name: ClassVar[str | None] = None

    def make_array(self) -> Text:
        return Text()

    def make_spec(self) -> ModalitySpec:
        """The token space that all text modalities share."""
        s = self.settings
        return self.build_spec(
            layout=SequenceLayout(max_tokens=s.max_tokens),
            array=self.make_array(),
            token_space=s.text.token_space(),
            tokenizer=s.text.recipe(),
            published_name=self.published_name,
        )


class TextSequence(SequenceModality[Lines]):
    """Text with alternatives, of which a view chooses one. A subclass defines how crops and flips change the words."""

    Settings: ClassVar[type[BaseModel]] = TextSequenceSettings
    extensions = ("txt",)
    accepts = "a text, or a list of alternatives"

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """Texts that are mostly letters; the longest determines `max_tokens`."""
        texts = usable(contents(samples, cls.extensions), _sentences)
        if not texts:
            return None
        words = sorted(len(line.split()) for lines in texts for line in lines)
        tokens = next_power(1.4 * words[-1] + 2, least=32)
        why = f"the longest text seen has {counted(words[-1], 'word')}; more is cut off"
        settings = {"max_tokens": (min(tokens, 1024), why)}
        most = max(map(len, texts))
        alternatives = f", up to {most} a sample" if most > 1 else ""
        what = f"texts of {counted(words[len(words) // 2], 'word')}{alternatives}"
        different = {word.lower() for lines in texts for line in lines for word in line.split()}
        return Recognised(0.8, what, settings, words=len(different))

    def make_array(self) -> Text:
        return Text(max_characters=self.settings.max_characters)

    def read(self, files: Mapping[str, bytes]) -> Lines:
        content = images.only_file(files, self.extensions)[1]
        if len(content) > _MAX_BYTES:
            raise SampleError(f"{self.spec.source} file of {len(content)} bytes; at most {_MAX_BYTES} are read")
        text = decode_text(content, self.spec.source)
        texts: list[str] = []
        for number, line in enumerate(_LINE_END.split(text), 1):
            words = " ".join(line.split())
            if len(words) > (limit := self.settings.max_characters):
                raise SampleError(f"{self.spec.source} of {len(words)} characters in line {number}, at most {limit}")
            if words:
                texts.append(words)
        if not texts:
            raise SampleError(f"empty {self.spec.source}: the file holds no words")
        return tuple(texts)

    def from_text(self, text: str) -> Lines:
        """A single text, even if it has several lines."""
        return self._alternatives([text])

    def from_array(self, array: np.ndarray) -> Lines:
        raise self.refusal(array, "no text")

    def from_object(self, given: Any) -> Lines:
        """A list or tuple of alternatives."""
        if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) for text in given):
            raise self.refusal(given, "no text")
        return self._alternatives(given)

    def _alternatives(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The alternatives that contain words, with whitespace collapsed to single spaces."""
        kept = tuple(text for text in (" ".join(raw.split()) for raw in texts) if text)
        if not kept:
            raise SampleError(f"empty {self.spec.source}: no words")
        for text in kept:
            if "\0" in text:
                raise SampleError("the text holds a NUL character")
            if len(text) > (limit := self.settings.max_characters):
                raise SampleError(f"{self.spec.source} of {len(text)} characters, at most {limit}")
        return kept

    def write(self, value: Lines) -> dict[str, bytes]:
        return {"txt": ("\n".join(lines(value)) + "\n").encode()}

    def alternatives(self, value: Lines) -> int:
        return len(lines(value))

    def augment(self, value: Lines, view: View) -> Lines:
        """The alternative that the view chooses."""
        alternatives = lines(value)
        return alternatives[view.variant % len(alternatives)]

    def normalise(self, value: Lines) -> str:
        return lines(value)[0]

    def denormalise(self, array: np.ndarray | str) -> Lines:
        assert isinstance(array, str)
        return array

    def render(self, value: Lines) -> str:
        return "\n".join(lines(value))

    def metrics(self) -> tuple[Metric, ...]:
        return Metric("word F1", word_f1, True), Metric("length ratio", length_ratio, True)

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        """Two alternatives of a few plain words."""
        samples = []
        for index in range(n):
            rng = np.random.default_rng([seed, index, 10])
            first, second = rng.choice(_WORDS, 2, replace=False)
            samples.append(self.write((f"{first} and {second}", f"it is {first} and not {second}")))
        return samples


def _sentences(content: bytes) -> list[str] | None:
    """The lines of a text; None if it is mostly numbers and symbols, like a detector's labels."""
    if len(content) > _MAX_BYTES:
        return None
    texts = [line for line in _LINE_END.split(decode_text(content, "text")) if line.strip()]
    characters = "".join("".join(texts).split())
    return texts if sum(map(str.isalpha, characters)) > 0.6 * len(characters) else None


def decode_text(content: bytes, what: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. Raises `SampleError`, with the remedy, for any other
    encoding: guessing is unreliable, and a wrong guess would mean training on garbage."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "UTF-32" if content.startswith(codecs.BOM_UTF32_LE) else "UTF-16"
        raise SampleError(f"{what} is {encoding}, not UTF-8; save it as UTF-8 (iconv -f {encoding} -t UTF-8)")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise SampleError(f"{what} is not UTF-8: {byte}; save it as UTF-8 (iconv -f ENCODING -t UTF-8)") from None
    if "\0" in text:
        raise SampleError(f"{what} holds a NUL character: not a text file, or not UTF-8")
    return text


def lines(value: Lines) -> tuple[str, ...]:
    """The alternatives; a str is a single one."""
    return (value,) if isinstance(value, str) else value


def word_f1(predictions: Sequence[Lines], truths: Sequence[Lines]) -> float:
    """Mean F1 (precision and recall) of lower-case words, counted with repetition, with the best true alternative."""
    pairs = zip(predictions, truths, strict=True)
    return float(np.mean([max(_f1(_words(p), _words(line)) for line in lines(t)) for p, t in pairs]))


def length_ratio(predictions: Sequence[Lines], truths: Sequence[Lines]) -> float:
    """Mean ratio of the number of words, shorter to longer, with the true alternative nearest in length."""
    ratios = []
    for p, t in zip(predictions, truths, strict=True):
        n = len(_words(p))
        ratios.append(max(min(n, k) / max(n, k, 1) for k in (len(_words(line)) for line in lines(t))))
    return float(np.mean(ratios))


def _words(value: Lines) -> list[str]:
    return re.findall(r"\w+", lines(value)[0].lower())


def _f1(predicted: list[str], true: list[str]) -> float:
    both = (Counter(predicted) & Counter(true)).total()
    return 2 * both / (len(predicted) + len(true)) if both else 0.0

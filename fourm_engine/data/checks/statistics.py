"""Statistics of the arrays of one modality, accumulated sample by sample and merged over processes.

Channels of a feature map or vector have a mean, a spread and a range; class maps have frequencies; sequences have
lengths. Memory does not grow with the number of samples, except for the distinct lengths of texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm_engine.data.checks.findings import Listed
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, Text
from fourm_plugins.tokenizer import Tokenizer

#: Number of pixels of a value, before crop and resize, that are counted: a grid over the whole value.
VALUE_PIXELS = 1 << 16
#: Values with more channels are only counted as arrays.
MAX_VALUE_CHANNELS = 64


class Moments:
    """Count, mean, sum of squared deviations and range of each of C channels; NaN counts as a gap."""

    def __init__(self, channels: int) -> None:
        self.count, self.gaps = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
        self.mean, self.squares = np.zeros(channels), np.zeros(channels)
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """values: (C, n)."""
        one = Moments(len(values))
        known = ~np.isnan(values)
        one.count, one.gaps = known.sum(1), (~known).sum(1)
        values = values.astype(np.float64)
        one.mean = np.where(known, values, 0).sum(1) / np.maximum(one.count, 1)
        one.squares = np.where(known, (values - one.mean[:, None]) ** 2, 0).sum(1)
        one.low = np.where(known, values, np.inf).min(1, initial=np.inf)
        one.high = np.where(known, values, -np.inf).max(1, initial=-np.inf)
        self.merge(one)

    def merge(self, other: Moments) -> None:
        total = np.maximum(self.count + other.count, 1)
        step = other.mean - self.mean
        self.squares += other.squares + step**2 * self.count * other.count / total
        self.mean += step * other.count / total
        self.count, self.gaps = self.count + other.count, self.gaps + other.gaps
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    @property
    def deviation(self) -> np.ndarray:
        """(C,) standard deviation."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    def to_json(self) -> dict[str, Any]:
        known = self.count > 0
        columns = {"mean": self.mean, "deviation": self.deviation, "lowest": self.low, "highest": self.high}
        gaps = self.gaps / np.maximum(self.count + self.gaps, 1)
        numbers = {name: [float(x) if ok else None for x, ok in zip(column, known)] for name, column in columns.items()}
        return {"channels": len(self.count), "numbers": int(self.count.sum()), **numbers, "gaps": gaps.tolist()}


class Statistics:
    """Statistics of the arrays of `modality`; for a sequence in tokens, too, if its `tokenizer` is available."""

    def __init__(self, modality: Modality, tokenizer: Tokenizer | None = None) -> None:
        self.spec, self.tokenizer = modality.spec, tokenizer
        self.samples = 0
        self.values: Moments | None = None
        self.arrays: Moments | None = None
        self.at_ends = 0  # numbers that are exactly -1 or 1, the result of clipping
        self.constant = Listed()  # samples
        classes = self.spec.array.classes if isinstance(self.spec.array, ClassMap) else 0
        self.class_pixels, self.class_samples = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self.unlabelled = 0  # pixels
        self.class_names = tuple(modality.class_names())
        self.characters, self.tokens = Counter[int](), Counter[int]()
        self.truncated = Listed()  # samples

    def add_value(self, value: Any) -> None:
        """Add a value as it was read: (H, W) or (H, W, C) numbers; others are ignored."""
        if not isinstance(value, np.ndarray) or value.ndim not in (2, 3) or value.dtype.kind not in "uif":
            return
        if isinstance(self.spec.array, ClassMap) or (value.ndim == 3 and value.shape[2] > MAX_VALUE_CHANNELS):
            return
        step = max(1, int(np.ceil((value.shape[0] * value.shape[1] / VALUE_PIXELS) ** 0.5)))
        some = value[::step, ::step].reshape(-1, value.shape[2] if value.ndim == 3 else 1).T.astype(np.float64)
        if self.values is None:
            self.values = Moments(len(some))
        if len(self.values.count) == len(some):
            self.values.add(some)

    def add(self, name: str, arrays: Sequence[np.ndarray | str]) -> bool:
        """Add the arrays of a sample: one, or all alternatives of a text. Returns whether it is constant."""
        self.samples += 1
        if isinstance(self.spec.array, Text):
            self._add_texts(name, [array for array in arrays if isinstance(array, str)])
            return False
        array = arrays[0]
        assert isinstance(array, np.ndarray)
        if isinstance(self.spec.array, ClassMap):
            known = array[array >= 0]
            counts = np.bincount(known, minlength=len(self.class_pixels))
            self.class_pixels += counts
            self.class_samples += counts > 0
            self.unlabelled += array.size - len(known)
            return False
        flat = array.reshape(len(array), -1)
        if self.arrays is None:
            self.arrays = Moments(len(flat))
        self.arrays.add(flat)
        self.at_ends += int((np.abs(array) == 1).sum())
        channels = (row[known] for row, known in zip(flat, np.isfinite(flat)) if known.any())
        constant = array.ndim == 3 and all(np.ptp(channel) == 0 for channel in channels)
        if constant and np.isfinite(array).any():
            self.constant.add(name)
        return bool(constant)

    def _add_texts(self, name: str, texts: list[str]) -> None:
        self.characters.update(map(len, texts))
        if self.tokenizer is None:
            return
        most, cut = self.spec.layout.num_tokens, False
        for ids in self.tokenizer.encode(texts):
            self.tokens[len(ids) + 1] += 1  # including the end marker, which counts
            cut |= len(ids) + 1 > most
        if cut:
            self.truncated.add(name)

    def merge(self, other: Statistics) -> None:
        self.samples += other.samples
        for name in ("values", "arrays"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is None:
                setattr(self, name, theirs)
            elif theirs is not None and len(mine.count) == len(theirs.count):
                mine.merge(theirs)
        self.at_ends += other.at_ends
        self.constant.merge(other.constant)
        self.class_pixels += other.class_pixels
        self.class_samples += other.class_samples
        self.unlabelled += other.unlabelled
        self.characters.update(other.characters)
        self.tokens.update(other.tokens)
        self.truncated.merge(other.truncated)

    def class_name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else str(index)

    def to_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"samples": self.samples}
        if self.values is not None:
            facts["values"] = self.values.to_json()
        if self.arrays is not None:
            numbers = max(int(self.arrays.count.sum()), 1)
            facts["arrays"] = self.arrays.to_json() | {"at_ends": self.at_ends / numbers}
            facts["constant"] = self.constant.count
        if len(self.class_pixels):
            total = max(int(self.class_pixels.sum()), 1)
            facts["classes"] = [
                {"id": k, "name": self.class_name(k), "share": pixels / total, "samples": int(samples)}
                for k, (pixels, samples) in enumerate(zip(self.class_pixels.tolist(), self.class_samples))
            ]
            facts["unlabelled"] = self.unlabelled / max(total + self.unlabelled, 1)
        if self.characters:
            facts["characters"] = lengths(self.characters)
        if self.tokens:
            texts = self.tokens.total()
            cut = sum(n for length, n in self.tokens.items() if length > self.spec.layout.num_tokens)
            facts["tokens"] = lengths(self.tokens) | {"most": self.spec.layout.num_tokens, "truncated": cut / texts}
        return facts

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tokenizer": None}  # results of a worker are only merged


def lengths(counts: Counter[int]) -> dict[str, Any]:
    """Number of texts, and the minimum, median, 95th percentile and maximum of their lengths."""
    keys = np.array(sorted(counts))
    upto = np.cumsum([counts[int(key)] for key in keys])

    def at(share: float) -> int:
        return int(keys[np.searchsorted(upto, share * upto[-1])])

    return {"texts": int(upto[-1]), "least": int(keys[0]), "median": at(0.5), "95%": at(0.95), "longest": int(keys[-1])}

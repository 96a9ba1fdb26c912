"""Tokenizer of scalars: the id of a scalar is the bin that it falls into. Kind `bins`.

In: feature vectors (size,), a layout with one token per scalar. Out: ids, and the representative value of each bin:

- "uniform": bins of equal width from `low` to `high`; their centres;
- "log": bins of equal ratio, for positive scalars; their geometric centres;
- "quantile": bins that hold equally many training values; their medians.

Values outside the range go to the outermost bin. Each scalar has its own bins. If the array has gaps, NaN stands for a
missing value; its id is the last of the token space, and decodes to NaN.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import model_validator
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fourm_engine.weights import check_shapes, tensor_file
from fourm_plugins.arrays import check_ids, misfit
from fourm_plugins.settings import Settings
from fourm_plugins.spec import FeatureVector, ModalitySpec, Vector
from fourm_plugins.tokenizer import Tokenizer

FILE = "bins.safetensors"


class BinsSettings(Settings):
    """`low`, `high`: ends of the range, one number or one per scalar; null: the extremes of the training values."""

    spacing: Literal["uniform", "log", "quantile"] = "uniform"
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _fits_spacing(self) -> BinsSettings:
        if self.spacing == "quantile" and (self.low is not None or self.high is not None):
            raise ValueError("low and high do not go with spacing 'quantile', whose bins follow the training values")
        return self


class BinsTokenizer(Tokenizer):
    """Fitted state: `edges` float64 (size, bins - 1), the lower edge of each bin but the first; `values` float32 (size,
    bins), the value of each bin."""

    kind = "bins"
    Settings = BinsSettings
    positional = True

    def __init__(self, specs: Sequence[ModalitySpec], **settings: Any) -> None:
        super().__init__(specs, **settings)
        names = ", ".join(spec.name for spec in self.specs)
        if len(self.specs) > 1:
            raise ValueError(f"a bins tokenizer serves one modality, not {names}; give each its own token space")
        array, layout = self.spec.array, self.spec.layout
        if not (isinstance(array, FeatureVector) and isinstance(layout, Vector) and layout.length == array.size):
            raise ValueError(f"{names}: a bins tokenizer takes a feature vector of as many scalars as there are tokens")
        self.scalars, self.gaps = array.size, array.gaps
        self.bins = self.size - self.gaps
        if self.bins < 2:
            raise ValueError(f"{names}: a token space of {self.size} ids, one of them for gaps, leaves no two bins")
        for name in ("low", "high"):
            self._ends(name)
        self.edges = np.zeros((self.scalars, self.bins - 1))
        self.values = np.zeros((self.scalars, self.bins), np.float32)

    def _ends(self, name: str) -> list[float | None]:
        given = getattr(self.settings, name)
        if isinstance(given, tuple) and len(given) != self.scalars:
            raise ValueError(f"{self.spec.name}: {name} has {len(given)} numbers for {self.scalars} scalars")
        return list(given) if isinstance(given, tuple) else [given] * self.scalars

    @property
    def fingerprint(self) -> str:
        facts = [self.kind, self.settings.model_dump(mode="json"), self.spec.array.model_dump(mode="json"), self.size]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(self.edges.tobytes() + self.values.tobytes())
        return digest.hexdigest()

    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Returns the share of known values outside the range."""
        rows = [self._checked(array) for array in arrays()]
        table, outside, known = np.stack(rows).astype(np.float64), 0, 0
        for scalar in range(self.scalars):
            values = np.sort(table[:, scalar][~np.isnan(table[:, scalar])])
            low, high = self._fit_scalar(scalar, values)
            outside += int(((values < low) | (values > high)).sum())
            known += len(values)
        return {"outside": outside / max(known, 1)}

    def _fit_scalar(self, scalar: int, values: np.ndarray) -> tuple[float, float]:
        """Fit the bins of one scalar to its sorted training values; returns the ends of the range."""
        where, n = f"{self.spec.name}: scalar {scalar}", self.bins
        if self.settings.spacing == "quantile":
            if len(values) < n:
                remedy = "give more samples, or the token space fewer ids"
                raise ValueError(f"{where}: {len(values)} training values for {n} quantile bins; {remedy}")
            self._equal_shares(scalar, values)
            return float(values[0]), float(values[-1])
        ends = []
        for name, extreme in (("low", 0), ("high", -1)):
            given = self._ends(name)[scalar]
            if given is None and not len(values):
                raise ValueError(f"{where} is missing in every training sample; set {name}")
            ends.append(float(values[extreme]) if given is None else given)
        low, high = ends
        if self.settings.spacing == "log" and low <= 0:
            raise ValueError(f"{where} reaches down to {low:g}; log bins need a positive `low`, or take 'uniform'")
        forward, back = (np.log, np.exp) if self.settings.spacing == "log" else (np.asarray, np.asarray)
        halves = back(np.linspace(forward(low), forward(max(low, high)), 2 * n + 1))  # edge, middle, edge, …, edge
        self.edges[scalar], self.values[scalar] = halves[2:-1:2], halves[1::2].astype(np.float32)
        if (self._bin(scalar, self.values[scalar]) != np.arange(n)).any():
            raise ValueError(f"{where}: {n} bins do not fit between {low:g} and {high:g}; set `low` and `high` apart")
        return low, high

    def _equal_shares(self, scalar: int, values: np.ndarray) -> None:
        """Bins with equal numbers of the sorted values. Equal values share a bin, and the bins above it divide the
        rest; empty bins are left over, and stand for the largest value."""
        self.edges[scalar], self.values[scalar] = np.inf, values[-1]
        start = 0
        for bin_ in range(self.bins):
            stop = start + -(-(len(values) - start) // (self.bins - bin_))
            stop = int(np.searchsorted(values, values[stop - 1], side="right"))
            self.values[scalar, bin_] = values[(start + stop - 1) // 2]
            if stop == len(values):
                return
            self.edges[scalar, bin_] = values[stop]
            start = stop

    def _bin(self, scalar: int, values: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.edges[scalar], values.astype(np.float64), side="right")

    def _checked(self, array: Any) -> np.ndarray:
        if wrong := misfit(self.spec, array):
            raise ValueError(f"{self.spec.name}: {wrong}")
        return array

    def encode(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        if not len(arrays):
            return []
        table = np.stack([self._checked(array) for array in arrays])
        ids = np.stack([self._bin(scalar, table[:, scalar]) for scalar in range(self.scalars)], axis=1)
        return list(np.where(np.isnan(table), self.size - 1, ids).astype(np.int64))

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        return [self._values(np.asarray(row)) for row in ids]

    def _values(self, row: np.ndarray) -> np.ndarray:
        check_ids(self.spec, row)
        values = self.values[np.arange(self.scalars), np.minimum(row, self.bins - 1)]
        return np.where(row < self.bins, values, np.float32(np.nan)).astype(np.float32)

    def decode_expected(self, probabilities: np.ndarray) -> list[Any]:
        """(B, scalars, size) -> (scalars,): the mean of the bins' values; NaN if a gap is more likely than a value."""
        bins = probabilities[..., : self.bins].astype(np.float64)
        known = bins.sum(-1)
        means = (bins * self.values).sum(-1) / np.maximum(known, 1e-30)
        missing = known < 0.5 if self.gaps else np.zeros_like(known, bool)
        return list(np.where(missing, np.nan, means).astype(np.float32))

    def save(self, folder: Path) -> None:
        save_file({"edges": self.edges, "values": self.values}, folder / FILE)

    def load(self, folder: Path) -> None:
        try:
            with tensor_file(folder / FILE) as file:
                tensors = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, TypeError) as error:
            raise ValueError(f"{folder / FILE}: cannot be read ({error}); fit it again") from None
        expected = {"edges": self.edges.shape, "values": self.values.shape}
        check_shapes({name: value.shape for name, value in tensors.items()}, expected, f"{folder / FILE}")
        if tensors["edges"].dtype != np.float64 or tensors["values"].dtype != np.float32:
            raise ValueError(f"{folder / FILE}: not the numbers of a bins tokenizer; fit it again")
        self.edges, self.values = tensors["edges"], tensors["values"]

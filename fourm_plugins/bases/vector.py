"""ScalarVector: a row of a table, a few numbers that belong together, such as a weather station's measurements.

Files: a JSON object {column: number}. Value: the same as a dict; if the class has `gaps`, NaN for a missing number.
Array: float32 (columns,), each column mapped from its range to [-1, 1], linearly or by its logarithm. One token per
column: the index of the number's bin, of `codebook_size` equal bins of [-1, 1].
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from fourm_plugins import images
from fourm_plugins.bases.standard import StandardModality
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Metric
from fourm_plugins.settings import Settings
from fourm_plugins.spec import FeatureVector, ModalitySpec, TokenizerRecipe, TokenSpace, Vector
from fourm_plugins.view import View

Row = dict[str, float]
_MAX_BYTES = 1_000_000


class Column(Settings):
    """A column of the table, and its range; numbers outside it are clipped."""

    display_only = frozenset({"unit"})

    name: str = Field(min_length=1)
    lowest: float
    highest: float
    unit: str = ""
    #: `log`: equal ratios are equally far apart, for positive numbers that span orders of magnitude, such as prices.
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _range(self) -> Column:
        if self.lowest >= self.highest:
            raise ValueError(f"{self.name}: lowest {self.lowest} is not below highest {self.highest}")
        if self.scale == "log" and self.lowest <= 0:
            raise ValueError(f"{self.name}: lowest {self.lowest} has no logarithm; raise it above 0, or drop scale")
        return self

    def share(self, number: float) -> float:
        """Where a number is in the range, from 0 for `lowest` to 1 for `highest`; beyond it for others, except that a
        logarithm clips what is below `lowest`."""
        if self.scale == "linear":
            return (number - self.lowest) / (self.highest - self.lowest)
        return math.log(max(number, self.lowest) / self.lowest) / math.log(self.highest / self.lowest)

    def number(self, share: float) -> float:
        """The inverse of `share`."""
        if self.scale == "linear":
            return self.lowest + share * (self.highest - self.lowest)
        return self.lowest * math.exp(share * math.log(self.highest / self.lowest))


class VectorSettings(Settings):
    """A subclass provides a default for `columns`; otherwise a config must set it."""

    small: ClassVar[Mapping[str, Any]] = {"codebook_size": 32}
    run_only = frozenset({"source", "masker"})

    columns: tuple[Column, ...] = Field(min_length=1, max_length=4096)
    #: Number of ids of the tokenizer: levels into which each column's range is divided.
    codebook_size: int = Field(default=256, ge=2)
    #: Settings of the tokenizer; `kind` chooses another kind than `bins`.
    tokenizer: dict[str, Any] = Field(default_factory=dict)
    #: Folder of the data set to read; by default the modality's name up to an "@".
    source: str | None = None
    #: Kind of masker, in place of the layout's default.
    masker: str | None = None

    @field_validator("columns")
    @classmethod
    def _distinct(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [column.name for column in columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"column {twice[0]!r} appears twice; rename one")
        return columns


class ScalarVector(StandardModality[Row]):
    """One number per column, unaffected by crops. With `gaps`, numbers may be missing from a file, or null; these are
    ignored in losses and metrics."""

    Settings: ClassVar[type[BaseModel]] = VectorSettings
    uses_variant = False
    extensions = ("json",)
    alignment = None
    gaps: ClassVar[bool] = False

    def make_spec(self) -> ModalitySpec:
        s, length = self.settings, len(self.settings.columns)
        # Bins cover the columns' ranges rather than the training data's, unless a config requests data-dependent bins.
        bins = {} if "spacing" in s.tokenizer else {"low": -1.0, "high": 1.0}
        return self.build_spec(
            layout=Vector(length=length),
            array=FeatureVector(size=length, gaps=self.gaps),
            token_space=TokenSpace(name=self.name, size=s.codebook_size),
            tokenizer=TokenizerRecipe.choose(s.tokenizer, kind="bins", **bins),
            expected_decoding=True,
        )

    def read(self, files: Mapping[str, bytes]) -> Row:
        """The columns of the JSON object; other keys are ignored."""
        entries = images.only_json(files, self.extensions, self.name, most=_MAX_BYTES)
        if not isinstance(entries, dict):
            raise SampleError(f"a row is a JSON object of columns, not {type(entries).__name__}")
        return self._row(entries)

    def from_array(self, array: np.ndarray) -> Row:
        raise self.refusal(array, "an array does not say which column is which")

    def from_object(self, given: Any) -> Row:
        if not isinstance(given, Mapping):
            raise self.refusal(given)
        numbers = {name: x.item() if getattr(x, "shape", None) == () else x for name, x in given.items()}
        # A null in a file is NaN in a value.
        return self._row({name: None if isinstance(x, float) and math.isnan(x) else x for name, x in numbers.items()})

    def accepted_inputs(self) -> str:
        names = ", ".join(repr(column.name) for column in self.settings.columns[:6])
        more = ", …" if len(self.settings.columns) > 6 else ""
        return f"{{column: number}} of {names}{more}, its JSON, or a file (.{', .'.join(self.spec.extensions)})"

    def _row(self, entries: Mapping[str, Any]) -> Row:
        row = {}
        for column in self.settings.columns:
            number = entries.get(column.name)
            if number is None and self.gaps:
                number = math.nan
            elif isinstance(number, bool) or not isinstance(number, (int, float)) or abs(number) > 1e300:
                raise SampleError(f"column {column.name!r} holds {number!r:.40}; a number is needed")
            elif not math.isfinite(number):
                raise SampleError(f"column {column.name!r} holds {number}; all must be finite")
            row[column.name] = float(number)
        return self._known(row)

    def write(self, value: Row) -> dict[str, bytes]:
        known = {name: None if math.isnan(number) else float(number) for name, number in value.items()}
        return {"json": json.dumps(known).encode()}

    def augment(self, value: Row, view: View) -> Row:
        return value

    def normalise(self, value: Row) -> np.ndarray:
        self._known(value)
        shares = np.array([column.share(value[column.name]) for column in self.settings.columns])
        return np.asarray(np.clip(2 * shares - 1, -1, 1), np.float32)

    def denormalise(self, array: np.ndarray | str) -> Row:
        assert isinstance(array, np.ndarray)
        shares = (np.clip(array.astype(np.float64), -1, 1) + 1) / 2
        return {c.name: c.number(share) for c, share in zip(self.settings.columns, shares.tolist(), strict=True)}

    def render(self, value: Row) -> str:
        """One line per column: name, number, unit; a dash for a missing number."""
        numbers = {name: "–" if math.isnan(number) else f"{number:.4g}" for name, number in value.items()}
        return "\n".join(f"{c.name} {numbers[c.name]} {c.unit}".rstrip() for c in self.settings.columns)

    def parts(self, value: Row) -> Row:
        """The columns and their numbers."""
        return {name: number for name, number in value.items() if not math.isnan(number)}

    def with_part(self, value: Row, part: str, number: float) -> Row:
        if part not in value:
            raise SampleError(f"no column {part!r}; it has {', '.join(value)}")
        return value | {part: float(number)}

    def metrics(self) -> tuple[Metric, ...]:
        """The mean absolute error as a fraction of the columns' ranges, on their scale, then that of each column: in
        its unit, or if the scale is a logarithm, the mean ratio of prediction and truth, at least 1. Numbers missing in
        the truth are ignored; one missing in a prediction counts as an error of the whole range. Without any known
        number, the error is that of a perfect prediction."""
        columns = self.settings.columns

        def errors(predictions: Sequence[Row], truths: Sequence[Row], column: Column) -> list[float]:
            pairs = [(p[column.name], t[column.name]) for p, t in zip(predictions, truths, strict=True)]
            known = [(p, column.share(t)) for p, t in pairs if not math.isnan(t)]
            return [1.0 if math.isnan(p) else abs(column.share(p) - t) for p, t in known]

        def share(predictions: Sequence[Row], truths: Sequence[Row]) -> float:
            return float(np.mean([error for c in columns for error in errors(predictions, truths, c)] or [0.0]))

        def of(column: Column) -> Metric:
            def mean(predictions: Sequence[Row], truths: Sequence[Row]) -> float:
                error = float(np.mean(errors(predictions, truths, column) or [0.0]))
                return column.number(error) / column.lowest if log else error * (column.highest - column.lowest)

            log = column.scale == "log"
            kind = ("mean ratio", "×") if log else ("mean absolute error", column.unit)
            return Metric(f"{column.name}, {kind[0]}", mean, False, kind[1])

        return Metric("mean absolute error", share, False, "of the range"), *map(of, columns)

    def constants(self, values: Sequence[Row]) -> dict[str, Row]:
        """The median of each column, which minimises the mean absolute error; the middle of its range if none is
        known."""
        row = {}
        for column in self.settings.columns:
            known = [value[column.name] for value in values if not math.isnan(value[column.name])]
            row[column.name] = float(np.median(known)) if known else column.number(0.5)
        return {"one value": row}

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        """Columns that roughly rise and fall together."""
        columns, samples = self.settings.columns, []
        for index in range(n):
            rng = np.random.default_rng([seed, index, 9])
            levels = np.clip(rng.uniform(0.1, 0.9) + rng.normal(0, 0.1, len(columns)), 0, 1)
            numbers = [float(f"{c.number(level):.9g}") for c, level in zip(columns, levels.tolist(), strict=True)]
            if self.gaps and index % 3 == 2 and len(columns) > 1:
                numbers[rng.integers(len(columns))] = math.nan
            samples.append(self.write({c.name: x for c, x in zip(columns, numbers, strict=True)}))
        return samples

    def _known(self, row: Row) -> Row:
        if all(math.isnan(number) for number in row.values()):
            raise SampleError("no column holds a number")
        return row

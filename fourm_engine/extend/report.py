"""Gains and forgetting of an extension: held-out nats per token before and after, under the same masks.

In: the nats and tokens of each held-out sample, before and after, for every case (a set of inputs and targets). Out:
`Report`, which is `extend.json`. Means are over tokens; their standard errors are over samples (of a ratio of sums),
and that of a change is over the changes per sample, so that easy and hard samples cancel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.files import write_atomically

FORMAT = 1
FILE = "extend.json"


@dataclass(frozen=True)
class Nats:
    """One modality in one case: nats and number of target tokens of each sample with targets, by position."""

    nats_B: np.ndarray  # float64
    tokens_B: np.ndarray  # int64

    @property
    def mean(self) -> float:
        """Mean nats per token."""
        return float(self.nats_B.sum() / self.tokens_B.sum())

    @property
    def error(self) -> float | None:
        """Standard error of `mean` over samples; unknown for a single one."""
        n = len(self.nats_B)
        if n < 2:
            return None
        rest_B = self.nats_B - self.mean * self.tokens_B
        return float(np.sqrt(n / (n - 1) * np.square(rest_B).sum()) / self.tokens_B.sum())


#: Case -> modality -> scores of each sample.
Measured = Mapping[str, Mapping[str, Nats]]


@dataclass(frozen=True)
class Row:
    """One modality in one case; nats per target token."""

    case: str
    modality: str
    samples: int
    tokens: int
    before: float
    before_error: float | None
    after: float
    after_error: float | None
    change: float
    change_error: float | None


@dataclass(frozen=True)
class Report:
    """`rows` by case. "known": known modalities from known ones; "new": new modalities from known ones; "given new":
    known modalities from a new one alone."""

    source: str
    add: list[str]
    train: str
    steps: int
    trained_parameters: int
    parameters: int
    rows: list[Row]
    #: Known modalities that are excluded, since their plugin or tokenizer is missing.
    not_measured: list[str]

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1))

    @classmethod
    def load(cls, path: Path) -> Report:
        """Raises ValueError for a file that is not a report of this version."""
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if (number := document.pop("format")) != FORMAT:
                raise ValueError(f"format {number!r}, this version reads {FORMAT}")
            rows = [Row(**row) for row in document.pop("rows")]
            return cls(**document, rows=rows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not the report of an extension: {error!r:.200}") from None


def compare(before: Measured, after: Measured) -> list[Row]:
    """The rows of the report. Both arguments must have the same samples and masks."""
    rows = []
    for case, modalities in before.items():
        for name, was in modalities.items():
            now = after[case][name]
            assert np.array_equal(was.tokens_B, now.tokens_B), "other masks than before"
            change = Nats(now.nats_B - was.nats_B, was.tokens_B)
            counts = len(was.tokens_B), int(was.tokens_B.sum())
            scores = was.mean, was.error, now.mean, now.error, change.mean, change.error
            rows.append(Row(case, name, *counts, *scores))
    return rows

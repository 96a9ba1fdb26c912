"""Reads `metrics.jsonl` of a run, in any state.

In: a file that a run may still be writing, that a killed run left incomplete, or that another program wrote. Out: its
lines as finite numbers; anything else is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "metrics.jsonl"
#: Maximum length of a line in bytes; a longer one is not a run's.
MAX_LINE = 1 << 20
#: Maximum absolute value of a number.
LARGEST = 1e300


@dataclass(frozen=True)
class Line:
    """One line: of training (`numbers` has "loss"), of an evaluation (`held_out`), or of a matrix of `pairs`.

    `numbers`: "loss", "lr", "samples_per_s", ..., as in docs/training.md. `losses`, `held_out`: term -> loss. `pairs`:
    input -> target -> loss."""

    step: int
    numbers: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)
    pairs: dict[str, dict[str, float]] = field(default_factory=dict)


def read_lines(path: Path) -> list[Line]:
    """The lines of a file, in order; [] if it does not exist. Raises OSError for an unreadable file."""
    if not path.is_file():
        return []
    lines = []
    with open(path, "rb") as file:
        while text := file.readline(MAX_LINE):
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):  # also UnicodeDecodeError
                continue
            if isinstance(row, dict) and type(step := row.get("step")) is int and 0 <= step < LARGEST:
                pairs = row.get("pairs")
                matrix = {name: numbers(cells) for name, cells in pairs.items()} if isinstance(pairs, dict) else {}
                lines.append(Line(step, numbers(row), numbers(row.get("losses")), numbers(row.get("eval")), matrix))
    return lines


def numbers(values: Any) -> dict[str, float]:
    """The finite numbers among the values of a mapping; {} of anything else."""
    if not isinstance(values, Mapping):
        return {}
    return {name: float(value) for name, value in values.items() if _finite(value)}


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST

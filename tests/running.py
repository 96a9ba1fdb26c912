"""Commands in this process, and what their runs leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typer.testing import CliRunner

from fourm_engine.cli.app import app


def fourm(*arguments: Any) -> str:
    """What `fourm …` prints. Raises the ValueError that it ends with."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(done.exception, ValueError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def refused(*arguments: Any) -> str:
    """The one line that `fourm …` ends with."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(done.exception, ValueError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def silent(line: str) -> None:
    """Takes the lines of a command."""


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in rows(run) if "loss" in row]

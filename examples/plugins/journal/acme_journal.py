"""The journal of a run: an observer that writes `<run>/journal.md`, and `fourm journal RUN`, which shows it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_plugins import Run, hookimpl

FILE = "journal.md"


class Journal:
    @hookimpl
    def fourm_run_started(self, run: Run) -> None:
        how = f"goes on after step {run.first_step}" if run.first_step else "starts"
        self._note(run, f"{run.task} {how}: {run.parameters:,} parameters, {run.steps} steps")

    @hookimpl
    def fourm_evaluated(self, run: Run, step: int, scores: Mapping[str, float | None]) -> None:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if value is not None)
        self._note(run, f"step {step}: {listed or 'nothing measured'}")

    @hookimpl
    def fourm_run_ended(self, run: Run, step: int, outcome: str, error: str) -> None:
        self._note(run, f"{outcome} after step {step}" + (f": {error}" if error else ""))

    def _note(self, run: Run, text: str) -> None:
        with open(run.folder / FILE, "a", encoding="utf-8") as file:
            file.write(f"- {time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def journal(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> Any:
    """Show the journal of a run."""
    path = run / FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; was acme-journal installed when the run was trained?")
    print(path.read_text(encoding="utf-8"), end="")

"""Curves for TensorBoard: an observer that writes what a run reports to `<run>/tensorboard`.

Installed, it observes every run; `--no-plugin tensorboard` leaves it out. `tensorboard --logdir runs` shows the curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fourm_plugins import Run, hookimpl


class TensorBoard:
    """One writer for each run that is under way."""

    def __init__(self) -> None:
        self._writers: dict[Path, SummaryWriter] = {}

    @hookimpl
    def fourm_run_started(self, run: Run) -> None:
        # Curves of steps that are taken again are cut off where the run goes on.
        self._writers[run.folder] = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step + 1)

    @hookimpl
    def fourm_step(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        self._write(run, step, metrics)

    @hookimpl
    def fourm_evaluated(self, run: Run, step: int, scores: Mapping[str, float | None]) -> None:
        self._write(run, step, {"eval": scores})

    @hookimpl
    def fourm_run_ended(self, run: Run) -> None:
        if writer := self._writers.pop(run.folder, None):
            writer.close()

    def _write(self, run: Run, step: int, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
                if isinstance(number, (int, float)) and key != "step":
                    self._writers[run.folder].add_scalar(f"{key}/{name}".rstrip("/"), number, step)

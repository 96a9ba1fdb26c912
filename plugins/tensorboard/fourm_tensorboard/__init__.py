"""Curves for TensorBoard: an observer that writes what a run reports to `<run>/tensorboard`.

Installed, it observes every run; `--no-plugin tensorboard` leaves it out. `tensorboard --logdir runs` shows the curves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from fourm_plugins import Run, hookimpl


class TensorBoard:
    """One file of curves for each run in progress."""

    def __init__(self) -> None:
        self._curves: dict[Path, _Curves] = {}

    @hookimpl
    def fourm_run_started(self, run: Run) -> None:
        self._curves[run.folder] = _Curves(run.folder / "tensorboard", run.first_step)

    @hookimpl
    def fourm_step(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        self._curves[run.folder].write(step, metrics)

    @hookimpl
    def fourm_evaluated(self, run: Run, step: int, scores: Mapping[str, float | None]) -> None:
        self._curves[run.folder].write(step, {"eval": scores})

    @hookimpl
    def fourm_run_ended(self, run: Run) -> None:
        self._curves.pop(run.folder).close()


class _Curves:
    """Scalars; each is in the file when `write` returns. (torch's SummaryWriter writes in a thread, where a full disk
    ends in a traceback.) Raises OSError, naming the file."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = next(path for n in count() if not (path := folder / f"{stem}.{n}").exists())
        self._writer = RecordWriter(open(self._path, "xb", buffering=0))  # noqa: SIM115 (kept open for the run)
        self._event(file_version="brain.Event:2")
        self._event(step=step + 1, session_log={"status": "START"})  # later steps of earlier files are hidden

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
                if number is not None and key != "step":
                    tag = f"{key}/{name}".rstrip("/")
                    self._event(step=step, summary=Summary(value=[{"tag": tag, "simple_value": number}]))

    def close(self) -> None:
        self._writer.close()

    def _event(self, **facts: Any) -> None:
        try:
            self._writer.write(Event(wall_time=time.time(), **facts).SerializeToString())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

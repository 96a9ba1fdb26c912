"""Profiles a window of steps with torch.profiler.

In: the first and the last step. Out, per process: `<run>/profile/rank-R.json.gz`, a trace for https://ui.perfetto.dev
or chrome://tracing, and `rank-R.txt`, the operators that took the most time and memory.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, record_function

from fourm_engine.files import write_atomically
from fourm_engine.train.console import print_lines
from fourm_engine.train.utilisation import memory

#: Rows in each table of operators.
ROWS = 25


class Profile:
    """Traces the steps of `window`, (first, last) counted from 1, into `folder`; None traces nothing. A run that
    resumes inside the window traces the rest of it. `note` receives a line when a trace is written or cannot be; ranks
    other than 0 print errors to stderr."""

    def __init__(
        self,
        window: tuple[int, int] | None,
        folder: Path,
        *,
        rank: int,
        device: torch.device,
        note: Callable[..., None],
    ) -> None:
        self.window, self.folder, self.rank, self.device, self.note = window, folder, rank, device, note
        self._profiler: torch.profiler.profile | None = None
        self._step = ExitStack()
        self._first = self._last = 0

    def start_step(self, step: int) -> None:
        """Call before the batch of `step` is fetched."""
        if self.window is None or not self.window[0] <= step <= self.window[1]:
            return
        if self._profiler is None:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences its start and stop messages on stderr
            gpu = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
            self._profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU, *gpu], profile_memory=True)
            self._profiler.start()
            self._first = step
        self._last = step
        self._step.enter_context(record_function(f"step {step}"))

    def end_step(self, step: int) -> None:
        """Call when `step` is done."""
        self._step.close()
        if self._profiler is not None and self.window is not None and step >= self.window[1]:
            self.close()

    def close(self) -> None:
        """Write the trace, if there is one: a run may end within the window."""
        self._step.close()
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        trace = self.folder / f"rank-{self.rank}.json.gz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as elsewhere:
                profiler.export_chrome_trace(f"{elsewhere}/{trace.name}")
                write_atomically(trace, Path(elsewhere, trace.name).read_bytes())
            write_atomically(trace.with_name(f"rank-{self.rank}.txt"), self._tables(profiler))
        except OSError as error:
            failed = "failed; the run continues without it"
            if self.rank:  # whose `note` is silent
                print_lines([f"profile of rank {self.rank}: {failed}: {error}"], sys.stderr)
            else:
                self.note(f"profile: {failed}", str(error))
            return
        steps = f"steps {self._first} to {self._last}"
        self.note(f"profile of {steps}; open it at https://ui.perfetto.dev", str(trace))

    def _tables(self, profiler: torch.profiler.profile) -> str:
        rows, where = profiler.key_averages(), self.device.type
        tables = [
            rows.table(sort_by=key, row_limit=ROWS, max_name_column_width=60)
            for key in (f"self_{where}_time_total", f"self_{where}_memory_usage")
        ]
        most = f"most memory so far: {memory(self.device):.3f} GiB"
        return f"steps {self._first} to {self._last}, process {self.rank}; {most}\n\n" + "\n\n".join(tables) + "\n"

"""Observers of a run: packages that watch it (loggers, alarms) without changing its result.

In: hooks of `fourm_plugins.hookspecs` that installed packages implement. An error in an observer is reported once, with
its package's name, and disables the observer. After each call, process state (`fourm_plugins.guard`) and torch's random
generators, modes and threads are restored.
"""

from __future__ import annotations

import copy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fourm_engine.train.checkpoint import step_folder
from fourm_engine.train.distributed import describe
from fourm_plugins.errors import one_line
from fourm_plugins.guard import Stopped, guarded
from fourm_plugins.hookspecs import Run
from fourm_plugins.manager import PluginManager


class Observers:
    """Calls the hooks of the observers that `host` activated, with the description of `run`; `active` on rank 0
    only."""

    def __init__(self, host: PluginManager, run: Run, *, active: bool = True) -> None:
        self.run = run
        self._host, self._active = host, active
        self._failed: set[str] = set()
        self._saved: int | None = run.first_step  # step of the last announced checkpoint

    @contextmanager
    def announce_run(self, step: Callable[[], int]) -> Iterator[None]:
        """Announce the start of the block, and its end after `step()` steps, whether or not it raises."""
        self("fourm_run_started")
        outcome, error = "finished", ""
        try:
            yield
        except BaseException as failure:
            stopped = isinstance(failure, (SystemExit, KeyboardInterrupt))
            outcome, error = ("stopped", "") if stopped else ("failed", describe(failure))
            raise
        finally:
            self("fourm_run_ended", step=step(), outcome=outcome, error=error)

    def checkpoint(self, saved: int | None, folder: Path) -> None:
        """Announce the newest complete checkpoint in `folder`, once."""
        if saved is not None and saved != self._saved:
            self._saved = saved
            self("fourm_checkpoint", step=saved, folder=step_folder(folder, saved))

    def __call__(self, hook: str, **facts: Any) -> None:
        """Call `hook` of every observer, with copies of those `facts`, and of the run, that it takes as arguments."""
        if not self._active:
            return
        facts["run"] = self.run
        for name, function, arguments in self._host.observers(hook):
            if name in self._failed:
                continue
            try:
                with _undisturbed(f"observer {name}"):
                    function(*(copy.deepcopy(facts[argument]) for argument in arguments))
            except Stopped:
                raise
            except (Exception, SystemExit) as error:
                self._failed.add(name)
                where = traceback.extract_tb(error.__traceback__)[-1]
                words = one_line(error)
                print(
                    f"observer {name}: {hook} failed with {type(error).__name__}: {words} "
                    f"({where.filename}:{where.lineno}); it observes no more, the run goes on",
                    file=sys.stderr,
                    flush=True,
                )


@contextmanager
def _undisturbed(what: str) -> Iterator[None]:
    """Restore all state that affects a run's numbers, and the handlers of SIGTERM and Ctrl-C."""
    threads, fast = torch.get_num_threads(), torch.get_float32_matmul_precision()
    exact, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad(), guarded(what, "leave it out", witness=False):
            yield
    finally:
        torch.set_float32_matmul_precision(fast)
        torch.use_deterministic_algorithms(exact, warn_only=warn)
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

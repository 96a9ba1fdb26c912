"""The observers of a run: packages that watch it (loggers, alarms) without changing the result.

In: hooks of `fourm_plugins.hookspecs` that installed packages implement. An observer that raises is reported once, with
its package's name, and not called again. Each call restores random generators and torch's modes.
"""

from __future__ import annotations

import copy
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fourm_plugins.manager import PluginManager


class Observers:
    """Calls hooks of the observers that `host` activated. `active` is false in all processes but the first, where no
    hook is called."""

    def __init__(self, host: PluginManager | None = None, *, active: bool = True) -> None:
        self._host, self._active = host, active
        self._failed: set[str] = set()

    def __call__(self, hook: str, **facts: Any) -> None:
        """Call `hook` of every observer with copies of `facts`, of which each takes those that it names."""
        if not self._active or self._host is None:
            return
        for package, function, arguments in self._host.observers(hook):
            if package in self._failed:
                continue
            try:
                with _undisturbed():
                    function(*(copy.deepcopy(facts[name]) for name in arguments))
            except (Exception, SystemExit) as error:
                self._failed.add(package)
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(
                    f"observer {package}: {hook} failed with {type(error).__name__}: {' '.join(str(error).split())} "
                    f"({where.filename}:{where.lineno}); it observes no more, the run goes on",
                    file=sys.stderr,
                    flush=True,
                )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore what decides a run's numbers: random generators, default dtype, threads, gradient mode."""
    python, legacy = random.getstate(), np.random.get_state()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

"""The record of a run, `<run>/run.json`: its settings and state, without its metrics.

In: the description of a run when it starts, and how it ends. Out: one JSON object, always rewritten as a whole, which
`fourm runs` reads. Imports torch only when a run is recorded.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fourm_engine.files import write_atomically
from fourm_engine.lock import now, this_process
from fourm_plugins.discovery import ENGINE
from fourm_plugins.distributions import find_distribution
from fourm_plugins.hookspecs import Run

NAME, FORMAT = "run.json", 1
MAX_BYTES = 1 << 20
RUNNING, ENDED, FAILED, STOPPED = "running", "ended", "failed", "stopped"


@contextmanager
def record_run(run: Run, device: str, step: Callable[[], int], *, active: bool = True) -> Iterator[None]:
    """Record the run that the block trains on `device`, and how and after how many steps (`step()`) it ended. Every
    process must call it; only the `active` one, rank 0, writes. Raises CannotWrite if the first write fails."""
    from fourm_engine.train.distributed import describe, together

    facts = {
        "format": FORMAT,
        "what": run.task,
        "parameters": run.parameters,
        "processes": run.processes,
        "device": device,
        **versions(),
        **this_process(),
        "steps": run.steps,
        "train": run.config,
        "started": now(),
        "state": RUNNING,
    }
    together(lambda: _write(run.folder, facts) if active else None)
    state, error = ENDED, ""
    try:
        yield
    except BaseException as failure:
        stopped = isinstance(failure, (SystemExit, KeyboardInterrupt))
        state, error = (STOPPED, "") if stopped else (FAILED, describe(failure))
        raise
    finally:
        if active:
            with suppress(OSError):  # a full disk must not hide the error that ended the run
                _write(run.folder, {**facts, "state": state, "error": error, "step": step(), "ended": now()})


def _write(run: Path, facts: dict[str, Any]) -> None:
    write_atomically(run / NAME, json.dumps(facts, indent=1) + "\n")


def read(run: Path) -> dict[str, Any]:
    """The record of a run; {} if it is missing or invalid."""
    try:
        with open(run / NAME, "rb") as file:
            facts = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else {}


def versions() -> dict[str, str]:
    """Versions of the engine and torch, and the engine's commit if it runs from a checkout ("+" if modified)."""
    root = Path(__file__).resolve().parents[2]
    known = {"engine": find_distribution(ENGINE).version, "torch": find_distribution("torch").version}
    if (root / ".git").exists():  # the engine's own: an environment may lie inside another repository
        commit, changes = _git(root, "rev-parse", "--short", "HEAD"), _git(root, "status", "--porcelain", "-uno")
        if commit:
            known["commit"] = commit + ("+" if changes else "")
    return known


def _git(root: Path, *command: str) -> str:
    """The output of a git command; "" if it fails."""
    try:
        done = subprocess.run(("git", "-C", str(root), *command), capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

"""The record of a run, `<run>/run.json`: what is known without reading its numbers.

In: the facts of a run that starts, and how it ends. Out: one JSON object, always rewritten as a whole; `fourm runs`
reads it. Imports torch only when a run is recorded.
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
def recorded(run: Run, device: str, step: Callable[[], int], *, active: bool = True) -> Iterator[None]:
    """Record the run that the block trains on `device`, and how it ended, after `step()` steps. Every process calls it;
    the first one, `active`, writes. Raises CannotWrite if that fails at the start."""
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
            with suppress(OSError):  # what happened is told already; a full disk must not hide it
                _write(run.folder, {**facts, "state": state, "error": error, "step": step(), "ended": now()})


def _write(run: Path, facts: dict[str, Any]) -> None:
    write_atomically(run / NAME, json.dumps(facts, indent=1) + "\n")


def read(run: Path) -> dict[str, Any]:
    """The record of a run; {} if there is none, or it is invalid."""
    try:
        with open(run / NAME, "rb") as file:
            facts = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else {}


def versions() -> dict[str, str]:
    """The versions of the engine and torch, and the engine's commit if installed from a checkout ("+" with changes)."""
    root = Path(__file__).resolve().parents[2]
    known = {"engine": find_distribution(ENGINE).version, "torch": find_distribution("torch").version}
    if (root / ".git").exists():  # only of the engine itself: an environment may lie in somebody else's repository
        commit, changes = _git(root, "rev-parse", "--short", "HEAD"), _git(root, "status", "--porcelain", "-uno")
        if commit:
            known["commit"] = commit + ("+" if changes else "")
    return known


def _git(root: Path, *command: str) -> str:
    """The output of a git command; "" if there is none."""
    try:
        done = subprocess.run(("git", "-C", str(root), *command), capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

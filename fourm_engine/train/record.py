"""What is known of a run without reading its numbers: `<run>/run.json`.

In: the facts of a run that starts, and how it ends. Out: one JSON object, rewritten as a whole; `fourm runs` reads it.
Of one that has ended, `finished.json` says with what.
Imports torch only where a run is recorded.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fourm_engine.files import write_atomically
from fourm_engine.lock import now, this_process
from fourm_plugins.discovery import ENGINE
from fourm_plugins.distributions import find_distribution
from fourm_plugins.hookspecs import Run

NAME, FORMAT = "run.json", 1
FINISHED = "finished.json"
MAX_BYTES = 1 << 20
RUNNING, ENDED, FAILED, STOPPED = "running", "ended", "failed", "stopped"


@contextmanager
def recorded(run: Run, device: str, step: Callable[[], int], *, active: bool = True) -> Iterator[None]:
    """Record the run that the block trains on `device`, and at its end how it ended, after `step()` steps: every
    process calls it, and the first one, `active`, writes. Raises CannotWrite where that fails at the start."""
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
    """What is recorded of a run; {} where that is nothing, or something else."""
    try:
        with open(run / NAME, "rb") as file:
            facts = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else {}


def note_finished(run: Path, step: int, exports: Sequence[str], scores: Mapping[str, float]) -> None:
    """Note that a run ended after `step` steps, what it exported, and its last evaluation."""
    write_atomically(run / FINISHED, json.dumps({"step": step, "exports": list(exports), "scores": dict(scores)}))


def finished(run: Path, step: int, exports: Sequence[str]) -> dict[str, float] | None:
    """The last evaluation of a run that ended after `step` steps and exported just that. None where nothing says so, or
    what says it is damaged: then the end of the run is done again."""
    try:
        document = json.loads((run / FINISHED).read_text())
        scores = {str(name): float(score) for name, score in document["scores"].items()}
        return scores if (document["step"], document["exports"]) == (step, list(exports)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def versions() -> dict[str, str]:
    """Of the engine, of torch, and the engine's commit where it is installed from a checkout ("+" with changes)."""
    root = Path(__file__).resolve().parents[2]
    found = {"engine": find_distribution(ENGINE).version, "torch": find_distribution("torch").version}
    if (root / ".git").exists():  # only of the engine itself: an environment may lie in somebody else's repository
        commit, changes = _git(root, "rev-parse", "--short", "HEAD"), _git(root, "status", "--porcelain", "-uno")
        if commit:
            found["commit"] = commit + ("+" if changes else "")
    return found


def _git(root: Path, *command: str) -> str:
    """What git says; "" where there is none."""
    try:
        done = subprocess.run(("git", "-C", str(root), *command), capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

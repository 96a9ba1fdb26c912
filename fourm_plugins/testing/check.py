"""Checks, their outcomes, and the report of all checks.

Runs `Check`s, each a small function with a stable name, and returns an `Outcome` for each, and a `Report` that counts
them and can be written as JSON.
"""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fourm_plugins.discovery import PluginError
from fourm_plugins.errors import one_line
from fourm_plugins.suggest import did_you_mean

#: failed, "cannot run" (something outside the plugin is missing) and "unexpected pass" (an expected failure that
#: passes) are bad; all others are not. "not run" means that a prerequisite failed in another check.
State = Literal["passed", "failed", "cannot run", "expected failure", "unexpected pass", "not claimed", "not run"]
BAD: frozenset[State] = frozenset({"failed", "cannot run", "unexpected pass"})


class Checked(Protocol):
    """The subject of checks: `fourm_plugins.testing.Subject`."""

    #: Failed checks, so that others that depend on them are not run instead of failing again.
    blamed: set[str]

    @property
    def claims(self) -> frozenset[str]: ...


class CheckFailed(AssertionError):
    """The plugin violates the check's requirement; the message describes its behaviour."""


class NotRun(Exception):
    """The check cannot be run here, for the given reason: it implies nothing about the plugin and is not a success."""


class Broken(Exception):
    """Something that several checks need could not be made. The check `owner` reports it, or else the first that needs
    it; the others are not run."""

    def __init__(self, owner: str, error: Exception) -> None:
        super().__init__(f"needs what {owner or 'an earlier check'} asks for, which failed")
        self.owner, self.error = owner, error


@dataclass(frozen=True)
class Check:
    """`run(subject)` raises `CheckFailed` if the plugin is wrong. The function's name is the check's, and the first
    line of its docstring says what the check requires. It runs if the subject makes all of `claims`; without any,
    always."""

    run: Callable[[Any], None]
    claims: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def concern(self) -> str:
        """The module that defines it: packaging, imports, spec, transforms, tokenizer, masker, training,
        coexistence."""
        return self.run.__module__.rpartition(".")[2]

    @property
    def says(self) -> str:
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check; `message` says why, unless it passed."""

    name: str
    state: State
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class Report:
    """The outcomes of one modality; `plugin` is its distribution."""

    plugin: str
    modality: str
    version: str
    checks: tuple[Outcome, ...]

    def count(self, *states: State) -> int:
        return sum(outcome.state in states for outcome in self.checks)

    @property
    def failed(self) -> int:
        """The checks that failed or could not run, and expected failures that passed."""
        return self.count(*BAD)

    def to_json(self) -> dict[str, Any]:
        return {
            "plugin": self.plugin,
            "modality": self.modality,
            "version": self.version,
            "ran": self.count("passed", "failed", "expected failure", "unexpected pass"),
            "cannot_run": self.count("cannot run"),
            "failed": self.failed,
            "expected": self.count("expected failure"),
            "not_claimed": self.count("not claimed"),
            "not_run": self.count("not run"),
            "checks": [{**asdict(outcome), "seconds": round(outcome.seconds, 3)} for outcome in self.checks],
        }


def require(condition: Any, message: str) -> None:
    """Raise `CheckFailed` with `message` unless `condition` holds."""
    if not condition:
        raise CheckFailed(message)


def run_check(check: Check, subject: Checked, expected_failures: Mapping[str, str]) -> Outcome:
    """Run one check, catching the plugin's errors. `subject.blamed` collects the checks that failed."""
    start = time.perf_counter()
    reason = expected_failures.get(check.name)
    state: State
    try:
        if unclaimed := [claim for claim in check.claims if claim not in subject.claims]:
            state, message = "not claimed", f"the plugin does not claim {unclaimed[0]!r}"
        else:
            check.run(subject)
            state, message = "passed", ""
    except NotRun as error:
        state, message = "cannot run", str(error)
    except Broken as error:
        # Each defect fails exactly once, even in a suite without its owner, or where that one was not selected.
        reported = error.owner != check.name and error.owner in subject.blamed
        state, message = ("not run", str(error)) if reported else ("failed", explain(error.error))
        subject.blamed.add(error.owner)
    except Exception as error:
        state, message = "failed", explain(error)
    if state in ("failed", "cannot run"):
        subject.blamed.add(check.name)
    if reason is not None and state in ("failed", "cannot run"):
        state, message = "expected failure", f"{reason} ({message})"
    elif reason is not None and state == "passed":
        message = f"expected to fail ({reason}), but it passes: remove it from what is expected"
        state = "unexpected pass"
    return Outcome(check.name, state, time.perf_counter() - start, message)


def explain(error: BaseException) -> str:
    """One line: the error and its location; no location if a check raised it on purpose."""
    text = one_line(error) or type(error).__name__
    if isinstance(error, CheckFailed):
        return text
    if isinstance(error, PluginError) and error.__cause__ is None:  # about its result, not about a line of code
        return text
    raised = error.__cause__ or error if isinstance(error, PluginError) else error  # at the plugin's line
    frames = traceback.extract_tb(raised.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {text:.500}"


def check_expectations(expected: Mapping[str, str], names: Collection[str]) -> None:
    """Raise ValueError unless every expected failure names a check and gives a reason."""
    for name, reason in expected.items():
        if name not in names:
            raise ValueError(f"expected_failures: no check is called {name!r}; {did_you_mean(name, names)}")
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"expected_failures: {name!r} has no reason; say why it fails")

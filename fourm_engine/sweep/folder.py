"""The folder of a sweep: its trials, their outcomes, and the locks of running ones.

OUT/trials/NAME.yaml            config or command of a trial
OUT/trials/NAME/outcome.json    its outcome
OUT/trials/NAME/log.txt         its output
OUT/trials/NAME/…               its run: config, checkpoints, metrics, model
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from fourm_engine.files import remove_leftovers, write_atomically, writing
from fourm_engine.lock import Busy, at_work, now, one_at_a_time
from fourm_engine.recipes.progress import PrintFn
from fourm_engine.recipes.runs import flat, is_run
from fourm_engine.sweep.trial import Trial
from fourm_engine.yaml_config import ConfigError, read_yaml
from fourm_plugins.counting import counted

OUTCOME, LOG, DRAWS = "outcome.json", "log.txt", "draws.json"
FORMAT = 1
MAX_BYTES = 1 << 20
DONE, FAILED, CUT = "done", "failed", "cut"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: "done", "failed", or "cut" off by its time limit at `step`, and not yet evaluated."""

    state: str
    error: str = ""
    step: int | None = None
    #: Number of failures.
    failures: int = 0
    ended: str = ""


class SweepFolder:
    """The folder `out`, and the file at `path` that defines its trials. Raises ConfigError if `out` cannot be used."""

    def __init__(self, out: Path, path: Path) -> None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{path}: out: {out} is a file; name a folder")
        if is_run(out):
            raise ConfigError(f"{path}: out: {out} is the folder of a run; name one for the trials alone")
        self.out, self.path = out, path

    def config(self, trial: Trial) -> Path:
        """The file that defines a trial."""
        return self.out / f"{trial.folder}.yaml"

    def check(self, trials: Sequence[Trial], beside: Sequence[str]) -> list[str]:
        """Compare trials with the existing ones; returns notes. `beside`: folders of trials in `out`. Raises
        ConfigError if an existing trial has another definition, or if none of the existing ones is among the trials."""
        existing = [f"{parent}/{path.stem}" for parent in beside for path in sorted((self.out / parent).glob("*.yaml"))]
        known = {trial.folder: trial for trial in trials}
        others = [folder for folder in existing if folder not in known]
        if others and len(others) == len(existing):
            raise ConfigError(
                f"{self.path}: {self.out} holds {counted(len(existing), 'trial')} of another sweep, such as "
                f"{Path(others[0]).name}, and none of this one; choose another `out`"
            )
        for folder in existing:
            if folder in known and known[folder].content:
                self._compare(known[folder])
        if others:
            foreign = f"{counted(len(others), 'trial')} in {self.out}, such as {Path(others[0]).name}"
            return [f"{foreign}: not of this file any more, left out"]
        return []

    def begin(self, trials: Sequence[Trial], notes: Sequence[str], print_fn: PrintFn) -> bool:
        """Report how many trials are done, and the notes; returns whether any is left."""
        states = [outcome.state for trial in trials if (outcome := self.outcome(trial)) is not None]
        done, failed = states.count(DONE), states.count(FAILED)
        more = f"; {failed} failed and are tried again" if failed else ""
        for line in (f"{self.path}: {counted(len(trials), 'trial')} in {self.out}, {done} done{more}", *notes):
            print_fn(line)
        return done < len(trials)

    def _compare(self, trial: Trial) -> None:
        before = read_yaml(self.config(trial))
        was, now = ({k: v for k, v in flat(c).items() if k != "run"} for c in (before, trial.content))
        changed = [key for key in [*was, *now] if was.get(key) != now.get(key)]
        if changed:
            key = changed[0]
            raise ConfigError(
                f"{self.path}: {trial.name} is there with {key}={_short(was.get(key))}, and now {key} would be "
                f"{_short(now.get(key))}; undo the change, or choose another `out`"
            )

    def outcome(self, trial: Trial) -> Outcome | None:
        """None if the trial has not ended, or the file is invalid."""
        try:
            with open(self.out / trial.folder / OUTCOME, "rb") as file:
                facts = json.loads(file.read(MAX_BYTES))
            if facts.pop("format") != FORMAT or facts["state"] not in (DONE, FAILED, CUT):
                return None
            return Outcome(**facts)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def record(self, trial: Trial, outcome: Outcome) -> None:
        facts = {"format": FORMAT, **asdict(outcome), "ended": now()}
        write_atomically(self.out / trial.folder / OUTCOME, json.dumps(facts, indent=1) + "\n")

    def claim(self, trial: Trial) -> ExitStack | None:
        """Lock a trial for this process until the stack closes; returns None if another command is working on it."""
        folder = self.out / trial.folder
        stack = ExitStack()
        try:
            stack.enter_context(at_work(folder, replaced=True))
            with at_work(folder):  # also locked by a run that outlived a killed sweep
                pass
        except Busy:
            stack.close()
            return None
        return stack

    def write(self, trial: Trial) -> Path:
        """Write the definition of a trial, as the config to start it with."""
        path = self.config(trial)
        remove_leftovers(path.parent, lambda name: name == path.name, deep=False)
        write_atomically(path, yaml.safe_dump(trial.content, sort_keys=False, allow_unicode=True))
        return path

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Admit one process at a time among those that share the sweep."""
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(self.out / ".sweep-gate"):
                yield

    def draws(self) -> dict[int, dict[str, Any]]:
        """draw -> {key: value}: the draws of a search that learns. Raises ConfigError for a damaged file."""
        path = self.out / DRAWS
        if not path.is_file():
            return {}
        try:
            with open(path, "rb") as file:
                facts = json.loads(file.read(MAX_BYTES))
            return {int(number): dict(values) for number, values in facts["draws"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}: not the draws of a sweep ({error}); move {self.out} away") from None

    def keep_draws(self, draws: Mapping[int, Mapping[str, Any]]) -> None:
        facts = {"format": FORMAT, "draws": {str(number): dict(values) for number, values in sorted(draws.items())}}
        write_atomically(self.out / DRAWS, json.dumps(facts, indent=1) + "\n")


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

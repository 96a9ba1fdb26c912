"""Implements `fourm sweep`: runs a sweep, from its file to its table.

In: the path of a sweep file. Out: `OUT/trials/`, `OUT/sweep.json`, `OUT/best.yaml`, pictures, and `Results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from fourm_engine.recipes.progress import PrintFn, print_line
from fourm_engine.sweep.config import SweepConfig, read_file
from fourm_engine.sweep.folder import DONE, FAILED, SweepFolder
from fourm_engine.sweep.plan import TRIALS, Plan
from fourm_engine.sweep.plots import draw_all
from fourm_engine.sweep.results import Results, results_of, write_best, write_results
from fourm_engine.sweep.search import check_optuna, next_draw
from fourm_engine.sweep.trial import Trial
from fourm_engine.sweep.trial_config import command_of
from fourm_engine.sweep.trial_metrics import MEASURED, explain_missing, read_metrics
from fourm_engine.sweep.workers import TrialRunner
from fourm_engine.train.metrics import duration
from fourm_engine.yaml_config import ConfigError
from fourm_plugins.suggest import did_you_mean


class Sweep:
    """The trials of a sweep file, and their results so far. Raises ConfigError, before writing anything, for an
    unusable file, an unknown key, an invalid value, and trials of another file in its folder."""

    def __init__(self, path: Path, overrides: Sequence[str] = (), *, print_fn: PrintFn = print_line) -> None:
        self.path, self.print_fn = path, print_fn
        self.config = read_file(path, SweepConfig, overrides)
        self.plan = Plan(self.config, path)
        self.folder = SweepFolder(self.config.out, path)
        self.draws = self.folder.draws()
        if self.config.sampler == "optuna":
            check_optuna()
            self.plan.check_draws()
        self.trials = self.plan.trials(self.draws)
        known = {key for trial in self.trials for key in trial.point} | {*self.config.random, *MEASURED}
        if unknown := [what for what in self.config.scaling if what not in known]:
            remedy = did_you_mean(unknown[0], known, otherwise="there are")
            raise ConfigError(f"{path}: scaling: {unknown[0]} is neither varied nor measured; {remedy}")
        self.notes = self.folder.check(self.trials, [TRIALS])

    def run(self, *, jobs: int = 1) -> Results:
        """Train missing trials, `jobs` at a time, and report. Other processes may share the work."""
        if self.folder.begin(self.trials, self.notes, self.print_fn):
            work = TrialRunner(
                self.folder,
                self.trials,
                jobs=jobs,
                minutes=self.config.budget.minutes,
                complete=self._drawn,
                describe=self._describe,
                print_fn=self.print_fn,
            )
            try:
                work.run()
            finally:
                with self.folder.exclusive():
                    write_results(self.results(), self.config.out)
        return self.report()

    def results(self) -> Results:
        """The results so far."""
        self.draws = self.folder.draws()
        self.trials = self.plan.trials(self.draws)
        report = results_of(self.trials, self.folder, self.config.measure)
        report.notes = [*self.notes, *report.notes]
        return report

    def report(self) -> Results:
        """The results so far, written to the folder as JSON, best config and pictures."""
        with self.folder.exclusive():
            report = self.results()
            write_results(report, self.config.out)
            best = write_best(report, self.config.out, self.path)
            try:
                pictures, empty = draw_all(report, self.config.out, self.config.scaling)
                report.notes += empty
            except ValueError as error:  # without matplotlib
                pictures = []
                report.notes.append(f"no pictures: {error}")
        if pictures:
            report.notes.append(f"pictures: {', '.join(map(str, pictures))} (and .svg)")
        if best is not None:
            report.notes.append(f"best: fourm {command_of(self.plan.base)} {best}")
        return report

    def _describe(self, trial: Trial) -> str:
        folder = self.folder.out / trial.folder
        result = read_metrics(folder, trial.measure)
        if (value := result.value()) is None:
            return explain_missing(folder, trial.measure)
        took = f", {duration(result.numbers['seconds'])}" if "seconds" in result.numbers else ""
        return f"{trial.measure.key} {value:.4g}{took}"

    def _drawn(self, trial: Trial) -> Trial:
        """The trial with its values, which an adaptive search draws now."""
        if trial.content or trial.draw is None:
            return trial
        config = self.config
        with self.folder.exclusive():
            draws = self.folder.draws()
            if trial.draw not in draws:
                values, goal = self._values(draws), config.measure.goal
                drawn = next_draw(trial.draw, config.random, draws, values, goal=goal, seed=config.seed)
                draws[trial.draw] = drawn
                self.folder.keep_draws(draws)
                self.print_fn(f"draw {trial.draw}: " + ", ".join(f"{key} {value}" for key, value in drawn.items()))
        same = next(other for other in self.plan.trials(draws) if other.folder == trial.folder)
        return replace(trial, content=same.content, point=same.point)

    def _values(self, draws: dict[int, dict[str, Any]]) -> dict[int, float | None]:
        """draw -> the mean of its trials, None if all failed. Draws with unfinished trials are omitted."""
        values: dict[int, float | None] = {}
        for number in draws:
            trials = [trial for trial in self.trials if trial.draw == number]
            ended = [self.folder.outcome(trial) for trial in trials]
            if any(outcome is None or outcome.state not in (DONE, FAILED) for outcome in ended):
                continue
            results = [read_metrics(self.folder.out / trial.folder, trial.measure).value() for trial in trials]
            numbers = [value for value in results if value is not None]
            values[number] = mean(numbers) if numbers else None
        return values


def sweep(path: Path, overrides: Sequence[str] = (), *, jobs: int = 1, print_fn: PrintFn = print_line) -> Results:
    """Train missing trials of the sweep file at `path`, and report. Raises ValueError for problems that a user can
    fix."""
    return Sweep(path, overrides, print_fn=print_fn).run(jobs=jobs)

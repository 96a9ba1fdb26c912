"""Implements `fourm suite`: runs a transfer suite, from its file to its table.

In: a file that lists encoders, tasks and seeds. Out: `OUT/encoders/`, the models that the suite trains; `OUT/tasks/`, a
run or a command's result for each encoder, task and seed; `OUT/suite.json`, pictures, and a `Results` for each task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from fourm_engine.files import write_atomically
from fourm_engine.recipes.progress import PrintFn, print_line
from fourm_engine.storage.url import LocalFolder
from fourm_engine.sweep.along import along, check_along
from fourm_engine.sweep.config import RESULT, Key, Label, Measure, Seeds, Settings, Strict, read_file, refuse_kept
from fourm_engine.sweep.folder import SweepFolder
from fourm_engine.sweep.plots import draw_all, draw_along
from fourm_engine.sweep.results import Group, Results, results_of
from fourm_engine.sweep.trial import Trial, name_of, slug
from fourm_engine.sweep.trial_config import check_from, content_of, is_task, read_base, with_settings
from fourm_engine.sweep.trial_metrics import explain_missing, read_metrics
from fourm_engine.sweep.workers import TrialRunner
from fourm_engine.yaml_config import ConfigError, set_key
from fourm_plugins.suggest import did_you_mean, nearest

ENCODERS, TASKS, SUITE, PICTURES, FORMAT = "encoders", "tasks", "suite.json", "pictures", 1
#: Placeholders in a command's words.
PLACEHOLDERS = ("encoder", "seed", "out", "name")
Word = Annotated[str, StringConstraints(max_length=4096)]


class Encoder(Strict):
    """A model that tasks start from; without `train` and `source`, tasks train from scratch."""

    #: A config that the suite trains first.
    train: Path | None = None
    #: Changes to that config.
    settings: Settings = Field(default_factory=dict)
    #: An existing model: folder of a run or an exported model, a published one, or a Hub id.
    source: str | None = None
    #: Settings in the config of every task, such as the shape of a model without a source.
    in_tasks: Settings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> Encoder:
        if self.train is not None and self.source is not None:
            raise ValueError("train and source both name the model; keep one")
        if self.settings and self.train is None:
            raise ValueError("settings are those of the config `train`, which is not set; in_tasks are those of tasks")
        refuse_kept(self.settings, "run")
        refuse_kept(self.in_tasks, "run", "seed")
        return self


class TransferTask(Strict):
    """A task to train from each encoder, and its measure."""

    #: A config of `fourm train`, or of `fourm finetune` (with a head); the encoder becomes its `finetune.source`.
    train: Path | None = None
    #: Changes to that config.
    settings: Settings = Field(default_factory=dict)
    #: Words of a `fourm` command in place of a config. {encoder}, {seed}, {out} (the folder of this trial) and {name}
    #: (of the encoder) are filled in. The number is in the JSON that it prints, or writes to {out}/RESULT, such as
    #: {out}/run/extend.json.
    command: tuple[Word, ...] | None = Field(default=None, min_length=1)
    result: Annotated[str, StringConstraints(pattern=r"^([^/\\.][^/\\]*/)*[^/\\.][^/\\]*$", max_length=100)] = RESULT
    measure: Measure = Field(default_factory=Measure)

    @model_validator(mode="after")
    def _one(self) -> TransferTask:
        if (self.train is None) == (self.command is None):
            raise ValueError("set train, a config, or command, the words of a fourm command")
        if self.command is not None and self.settings:
            raise ValueError("settings are those of the config `train`; write those of a command among its words")
        refuse_kept(self.settings, "run", "seed")
        if self.command is not None and not self.measure.key.startswith("result."):
            raise ValueError("measure.key of a command is result.KEY, in the JSON that it leaves")
        for name in re.findall(r"\{(\w+)\}", " ".join(self.command or ())):
            if name not in PLACEHOLDERS and (near := nearest(name, PLACEHOLDERS)):
                raise ValueError(f"command: {{{name}}} is not filled in; did you mean {{{near}}}?")
        return self


class SuiteConfig(Strict):
    """Every encoder with every task and every seed. Paths are relative to the working directory."""

    out: LocalFolder
    encoders: dict[Label, Encoder] = Field(min_length=1)
    tasks: dict[Label, TransferTask] = Field(min_length=1)
    #: Values of the tasks' `seed`; error bars are over these.
    seeds: Seeds = (0,)
    #: Numeric keys in which tasks differ, such as `data.train_share`: pictures of their measures over each.
    along: tuple[Key, ...] = ()


@dataclass
class SuiteResults:
    """Task -> its results, one group per encoder."""

    tasks: dict[str, Results]
    notes: list[str] = field(default_factory=list)

    def group(self, task: str, encoder: str) -> Group | None:
        return next((g for g in self.tasks[task].groups if g.point["encoder"] == encoder), None)

    def mean_ranks(self) -> dict[str, float]:
        """Encoder -> the mean of its ranks, for encoders ranked in every task; best first."""
        encoders = dict.fromkeys(g.point["encoder"] for report in self.tasks.values() for g in report.groups)
        ranks = {}
        for encoder in encoders:
            groups = [self.group(task, encoder) for task in self.tasks]
            if all(group is not None and group.rank is not None for group in groups):
                ranks[encoder] = mean(group.rank for group in groups if group is not None and group.rank is not None)
        return dict(sorted(ranks.items(), key=lambda item: item[1]))

    def to_json(self) -> dict[str, Any]:
        tasks = {task: report.to_json() for task, report in self.tasks.items()}
        return {"format": FORMAT, "mean_ranks": self.mean_ranks(), "tasks": tasks, "notes": self.notes}


class Suite:
    """The trials of a suite file, and their results so far. Raises ConfigError, before writing anything, for a file or
    config that cannot be used, and for trials of another file in its folder."""

    def __init__(self, path: Path, overrides: Sequence[str] = (), *, print_fn: PrintFn = print_line) -> None:
        self.path, self.print_fn, self.notes = path, print_fn, list[str]()
        self.config = read_file(path, SuiteConfig, overrides)
        self.folder = SweepFolder(self.config.out, path)
        self.encoders = {
            label: self._pretraining(label, encoder)
            for label, encoder in self.config.encoders.items()
            if encoder.train is not None
        }
        self.tasks = {label: self._of_task(label, task) for label, task in self.config.tasks.items()}
        self.trials = [*self.encoders.values(), *(trial for trials in self.tasks.values() for trial in trials)]
        if len({trial.folder for trial in self.trials}) < len(self.trials):
            raise ConfigError(f"{path}: two encoders, or two tasks, have names that differ in signs alone; rename one")
        for key in self.config.along:
            try:
                check_along(key, (trial for trials in self.tasks.values() for trial in trials))
            except ValueError as error:
                raise ConfigError(f"{path}: {error}") from None
        self.notes += self.folder.check(self.trials, [ENCODERS, TASKS])

    def check_commands(self, known: Collection[str]) -> None:
        """Raise ConfigError if a task's command is not among `known`."""
        for label, task in self.config.tasks.items():
            if task.command and "{" not in (word := task.command[0]) and word not in known:
                what = did_you_mean(word, known, otherwise="there are:")
                raise ConfigError(f"{self.path}: tasks.{label}.command: fourm has no command {word!r:.60}; {what}")

    def _pretraining(self, label: str, encoder: Encoder) -> Trial:
        assert encoder.train is not None
        folder = f"{ENCODERS}/{slug(label)}"
        base = read_base(encoder.train)
        origin = f"{self.path}: encoders.{label}"
        seed = encoder.settings.get("seed", base.get("seed", 0))
        content = content_of(base, encoder.settings, seed, self.config.out / folder, origin)
        return Trial(folder, {"encoder": label}, seed, content)

    def _of_task(self, label: str, task: TransferTask) -> list[Trial]:
        base = None if task.train is None else read_base(task.train)
        needs_model = is_task(base or {}) or any("{encoder}" in word for word in task.command or ())
        trials = []
        for name, encoder in self.config.encoders.items():
            needs = self.encoders[name].folder if name in self.encoders else None
            source = encoder.source if needs is None else str(self.config.out / needs)
            if source is None and needs_model:
                self.notes.append(
                    f"tasks.{label}: left out for {name}, which has no model to start from; for its shape alone name a "
                    f"source, with in_tasks: {{finetune.from_scratch: true}}"
                )
                continue
            for seed in self.config.seeds:
                folder = f"{TASKS}/{name_of({'task': label, 'encoder': name, 'seed': seed})}"
                if base is None:
                    content = self._command(task, source, name, seed, folder)
                else:
                    settings = {**task.settings, **encoder.in_tasks}
                    content = self._training(label, name, base, settings, source, seed, folder)
                trials.append(Trial(folder, {"encoder": name}, seed, content, task.measure, needs, result=task.result))
        return trials

    def _command(self, task: TransferTask, source: str | None, name: str, seed: int, folder: str) -> dict[str, Any]:
        filled = dict(zip(PLACEHOLDERS, (source or "", str(seed), str(self.config.out / folder), name), strict=True))
        words = []
        for word in task.command or ():
            for part, text in filled.items():
                word = word.replace(f"{{{part}}}", text)
            words.append(word)
        return {"command": words}

    def _training(
        self,
        label: str,
        name: str,
        base: Mapping[str, Any],
        settings: Mapping[str, Any],
        source: str | None,
        seed: int,
        folder: str,
    ) -> dict[str, Any]:
        origin = f"{self.path}: tasks.{label} from {name}"
        raw = dict(base)
        if source is None:
            raw.pop("finetune", None)
            return content_of(raw, settings, seed, self.config.out / folder, origin)
        raw = with_settings(raw, settings, origin)
        set_key(raw, "finetune.source", source, origin)
        if name not in self.encoders:
            return content_of(raw, {}, seed, self.config.out / folder, origin)
        raw |= {"run": str(self.config.out / folder), "seed": seed}
        check_from(raw, self.encoders[name].content, origin)
        return raw

    def run(self, *, jobs: int = 1) -> SuiteResults:
        """Run missing trials, `jobs` at a time, and report. Other processes may share the work."""
        if self.folder.begin(self.trials, self.notes, self.print_fn):
            TrialRunner(self.folder, self.trials, jobs=jobs, describe=self._describe, print_fn=self.print_fn).run()
        return self.report()

    def results(self) -> SuiteResults:
        """The results so far."""
        measures = {label: task.measure for label, task in self.config.tasks.items()}
        tasks = {label: results_of(trials, self.folder, measures[label]) for label, trials in self.tasks.items()}
        notes = [f"{label}: {note}" for label, report in tasks.items() for note in report.notes]
        failed = {r.trial.name: r.error for report in tasks.values() for r in report.results if r.error}
        return SuiteResults(tasks, [*self.notes, *notes, *(f"{name}: {error}" for name, error in failed.items())])

    def report(self) -> SuiteResults:
        """The results so far, written to the folder as JSON and pictures."""
        out = self.config.out
        with self.folder.exclusive():
            results = self.results()
            write_atomically(out / SUITE, json.dumps(results.to_json(), indent=1, default=str) + "\n")
            try:
                for label, report in results.tasks.items():
                    pictures, empty = draw_all(report, out / PICTURES / slug(label))
                    results.notes += [f"{label}: {line}" for line in empty]
                    results.notes += [f"pictures: {', '.join(map(str, pictures))} (and .svg)"] if pictures else []
                for key in self.config.along:
                    pictures = []
                    for report in along(key, (t for trials in self.tasks.values() for t in trials), self.folder):
                        stem = f"{slug(report.measure.key)}-along-{slug(key)}"
                        pictures += draw_along(report, key, out / PICTURES / stem)
                    drawn = f"{', '.join(map(str, pictures))} (and .svg)" if pictures else "no picture yet"
                    results.notes.append(f"along {key}: {drawn}")
            except ValueError as error:  # without matplotlib
                results.notes.append(f"no pictures: {error}")
        return results

    def _describe(self, trial: Trial) -> str:
        if trial.folder.startswith(ENCODERS):
            return "trained"
        folder = self.folder.out / trial.folder
        value = read_metrics(folder, trial.measure, trial.result).value()
        return explain_missing(folder, trial.measure) if value is None else f"{trial.measure.key} {value:.4g}"

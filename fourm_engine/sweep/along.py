"""The measure as a function of a numeric setting that differs between tasks, such as their share of the labels.

In: the trials of all tasks, and the dotted key of the setting. Out: `Results` for each measure, with the setting as an
axis, besides the encoder and any other settings that differ between the tasks with this measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fourm_engine.sweep.config import Measure
from fourm_engine.sweep.folder import SweepFolder
from fourm_engine.sweep.results import Results, results_of
from fourm_engine.sweep.trial import Trial
from fourm_plugins.settings import flat
from fourm_plugins.suggest import did_you_mean

#: Settings that differ between trials of any task.
_OF_TRIALS = ("run", "seed", "finetune.source")


def check_along(key: str, trials: Iterable[Trial]) -> None:
    """Raise ValueError for a key that is not a number in the tasks' configs, or has the same value in all."""
    settings = [flat(trial.content) for trial in trials]
    names = {name for s in settings for name in s}
    numbers = {name: {s[name] for s in settings if _is_number(s.get(name))} for name in names}
    varied = {name for name, values in numbers.items() if len(values) > 1 and name not in _OF_TRIALS}
    if key not in varied:
        values = numbers.get(key, set())
        if key in _OF_TRIALS:
            why = "tells trials apart, not tasks"
        else:
            why = f"is {min(values)} in all tasks" if len(values) == 1 else "is no number in the config of a task"
        remedy = did_you_mean(key, varied, otherwise="numbers in which tasks differ:")
        raise ValueError(f"along: {key} {why}; {remedy}")


def along(key: str, trials: Iterable[Trial], folder: SweepFolder) -> list[Results]:
    by_measure: dict[Measure, list[tuple[Trial, dict[str, Any]]]] = {}
    for trial in trials:
        settings = flat(trial.content)
        value = settings.get(key)
        if _is_number(value):
            by_measure.setdefault(trial.measure, []).append((trial, settings))
    return [results_of(_pointed(key, numbered), folder, measure) for measure, numbered in by_measure.items()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pointed(key: str, trials: list[tuple[Trial, dict[str, Any]]]) -> list[Trial]:
    """The trials, whose points include the number and the other settings that distinguish those of an encoder."""
    by_encoder: dict[str, list[dict[str, Any]]] = {}
    for trial, settings in trials:
        by_encoder.setdefault(trial.point["encoder"], []).append(settings)
    names = dict.fromkeys(name for _, settings in trials for name in settings if name not in (key, *_OF_TRIALS))
    differing = [
        name for name in names if any(len({json.dumps(s.get(name)) for s in same}) > 1 for same in by_encoder.values())
    ]
    pointed = []
    for trial, settings in trials:
        others = {name: settings[name] for name in differing if settings.get(name) is not None}
        pointed.append(replace(trial, point={**trial.point, key: settings[key], **others}))
    return pointed

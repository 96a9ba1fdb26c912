"""Expand a sweep file to trials, each with the full config to train.

In: `SweepConfig`, and the draws made so far by a search. Out: trials in execution order. The same file gives the same
trials, and additional values only add trials.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.sweep.config import MAX_TRIALS, SweepConfig
from fourm_engine.sweep.trial import Trial, name_of, short_names
from fourm_engine.sweep.trial_config import content_of, read_base
from fourm_engine.yaml_config import ConfigError

TRIALS = "trials"
#: draw -> {key: value}, for a search that learns.
Draws = Mapping[int, Mapping[str, Any]]


class Plan:
    """The trials of a sweep file at `path`. Raises ConfigError for a base that cannot be read."""

    def __init__(self, config: SweepConfig, path: Path) -> None:
        self.config, self.path = config, path
        if config.base.resolve() == path.resolve():
            raise ConfigError(f"{path}: base names this file; name the config to start from")
        self.base = read_base(config.base)

    def points(self, draws: Draws) -> list[tuple[dict[str, Any], dict[str, Any] | None, int | None]]:
        """(point, its settings, its draw) for every point, without seeds; settings are None until they are drawn."""
        config = self.config
        axes: list[list[tuple[dict[str, Any], dict[str, Any]]]] = []
        for name, values in config.grid.items():
            if isinstance(values, dict):
                axes.append([({name: label}, dict(settings)) for label, settings in values.items()])
            else:
                axes.append([({name: value}, {name: value}) for value in values])
        if config.points:
            axes.append([_entry(entry) for entry in config.points])
        planned: list[tuple[dict[str, Any], dict[str, Any] | None, int | None]] = []
        for number in range(config.budget.trials or 1):
            drawn = draws.get(number) if config.sampler == "optuna" else self.draw(number)
            for combination in itertools.product(*axes):
                point = {key: value for part, _ in combination for key, value in part.items()}
                settings = {key: value for _, part in combination for key, value in part.items()}
                point |= {"draw": number} if config.random else {}
                known = None if drawn is None else settings | dict(drawn)
                planned.append((point | dict(drawn or {}), known, number if config.random else None))
        return planned

    def draw(self, number: int) -> dict[str, Any]:
        """The values of an independent draw."""
        return {key: d.value(self.config.seed, number, key) for key, d in self.config.random.items()}

    def trials(self, draws: Draws) -> list[Trial]:
        """All trials, seeds innermost. Raises ConfigError for an unknown key, or a value that it does not accept."""
        points = self.points(draws)
        if (number := len(points) * len(self.config.seeds)) > MAX_TRIALS:
            raise ConfigError(f"{self.path}: {number} trials; at most {MAX_TRIALS} are taken")
        by_folder: dict[str, Trial] = {}
        for point, settings, draw in points:
            for seed in self.config.seeds:
                trial = self._trial(point, settings, draw, seed)
                if trial.folder in by_folder:
                    raise ConfigError(f"{self.path}: {trial.name} occurs twice; remove one of the values")
                by_folder[trial.folder] = trial
        return list(by_folder.values())

    def _trial(
        self, point: Mapping[str, Any], settings: Mapping[str, Any] | None, number: int | None, seed: int
    ) -> Trial:
        random = self.config.random
        named = {key: value for key, value in point.items() if key not in random}
        short = short_names(list(named))
        name = name_of({short[key]: value for key, value in named.items()} | {"seed": seed})
        shown = {key: value for key, value in point.items() if key != "draw"} if random else dict(point)
        folder = f"{TRIALS}/{name}"
        content = {} if settings is None else self.content(settings, seed, folder, f"{self.path}: {name}")
        learns = number if self.config.sampler == "optuna" else None
        return Trial(folder, shown, seed, content, self.config.measure, draw=learns)

    def content(self, settings: Mapping[str, Any], seed: int, folder: str, origin: str) -> dict[str, Any]:
        """The config of a trial. Raises ConfigError that starts with `origin`."""
        config = self.config
        length = {} if config.budget.steps is None else {"train.steps": config.budget.steps}
        return content_of(self.base, {**config.settings, **length, **settings}, seed, config.out / folder, origin)

    def check_draws(self) -> None:
        """Validate the bounds of values that a search draws later. Raises ConfigError."""
        for key, distribution in self.config.random.items():
            middle = {other: d.bounds[0] for other, d in self.config.random.items()}
            for value in distribution.choice or distribution.bounds:
                points = self.points({0: middle | {key: value}})
                for _, settings, number in points:
                    if number == 0 and settings is not None:
                        self.content(settings, self.config.seeds[0], TRIALS, f"{self.path}: random: {key}={value}")


def _entry(entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(point, settings) of an entry of `points`."""
    settings = {key: value for key, value in entry.items() if key != "name"}
    return ({"name": entry["name"]} if "name" in entry else settings), settings

"""The content of a sweep file, `SweepConfig`, and `Measure`, which is shared with suites."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fourm_engine.data.splits import drawn
from fourm_engine.storage.url import LocalFolder
from fourm_engine.yaml_config import ConfigError, apply_override, read_value, read_yaml, set_key, validated

#: Maximum number of trials in one file; more are considered a mistake.
MAX_TRIALS = 10_000
#: Default name of the file that a command writes.
RESULT = "result.json"
#: Dotted names of settings.
_KEY = r"^[^.=\s]+(\.[^.=\s]+)*$"
Key = Annotated[str, StringConstraints(pattern=_KEY, max_length=200)]
#: Name of a value of an axis, of a task or of an encoder.
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]+$", max_length=80)]
Settings = dict[Key, Any]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=1 << 63)], ...], Field(min_length=1)]
#: Overrides of settings: `settings.train.lr=…` sets the dotted key `train.lr`.
_OF_SETTINGS = re.compile(r"((?:(?:encoders|tasks)\.[^.]+\.)?(?:settings|in_tasks))\.(.+)")
#: Keys that are set for each trial -> advice for a file that sets them.
KEPT = {"run": "each trial has a folder below `out`", "seed": "name the seeds in `seeds`"}
M = TypeVar("M", bound=BaseModel)


def refuse_kept(keys: Collection[str], *kept: str) -> None:
    """Raise ValueError if one of `kept`, which are set for each trial, is among the keys."""
    for key in kept:
        if key in keys:
            raise ValueError(f"{key} cannot be varied: {KEPT[key]}")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Measure(Strict):
    """The number that trials are compared by."""

    #: "eval": the mean of the held-out losses; "eval.NAME": one of them; "loss", "loss.NAME": of training;
    #: "pairs.INPUT.TARGET": of the matrix of a run with `train.pairs_every`, "pairs": its mean; "result.KEY.KEY": in
    #: the JSON that a command leaves.
    key: Annotated[str, StringConstraints(pattern=r"^((eval|loss)(\..+)?|pairs(\.[^.]+\..+)?|result\..+)$")] = "eval"
    goal: Literal["min", "max"] = "min"
    #: The last evaluation (line, matrix), or the best one.
    at: Literal["last", "best"] = "last"

    def better(self, values: list[float]) -> float:
        return min(values) if self.goal == "min" else max(values)


class Budget(Strict):
    """Limits on each trial, and on the search."""

    #: Optimiser steps of a trial, instead of the base's length.
    steps: int | None = Field(default=None, ge=1)
    #: Maximum minutes of training per trial, which is then evaluated in its current state.
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: Draws of a random search, each with every point of the grid and every seed.
    trials: int | None = Field(default=None, ge=1, le=MAX_TRIALS)


class Distribution(Strict):
    """One of `uniform`, `log_uniform`, `integers`, `log_integers` ([low, high], both included) and `choice`."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None
    log_integers: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    #: Of `integers`: low, low + step, ...
    step: int = Field(default=1, ge=1)

    @property
    def kind(self) -> str:
        return next(name for name in _KINDS if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[Any, Any]:
        """[low, high]; for a choice its first and last value."""
        values = getattr(self, self.kind)
        return values[0], values[-1]

    @model_validator(mode="after")
    def _one(self) -> Distribution:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"set one of {', '.join(_KINDS)}, such as {{log_uniform: [1e-4, 1e-2]}}")
        if self.step > 1 and given != ["integers"]:
            raise ValueError("step goes with integers; leave it out")
        if given != ["choice"]:
            low, high = self.bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{given[0]} [{low}, {high}]: write [low, high], the lower one first")
            if given[0].startswith("log") and low <= 0:
                raise ValueError(f"{given[0]} [{low}, {high}]: a logarithm needs numbers above 0")
        return self

    def value(self, seed: int, number: int, key: str) -> Any:
        """The value of draw `number`: a pure function of these arguments, so that adding draws or keys changes no
        others."""
        share, (low, high) = drawn(f"sweep/{seed}/{number}/{key}"), self.bounds
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        if self.integers is not None:
            return low + self.step * int(share * ((high - low) // self.step + 1))
        if self.log_integers is not None:
            return min(high, int(math.exp(math.log(low) + share * (math.log(high + 1) - math.log(low)))))
        if self.log_uniform is not None:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return min(high, max(low, float(f"{value:.4g}")))


_KINDS = ("uniform", "log_uniform", "integers", "log_integers", "choice")


class SweepConfig(Strict):
    """Trials are all points of `grid`, combined with every entry of `points`, every draw of `random`, and every seed.
    Paths are relative to the working directory, as in any config."""

    #: The config that trials start from; its `run` is ignored.
    base: Path
    #: Output folder of the sweep.
    out: LocalFolder
    #: Changes to the base in all trials.
    settings: Settings = Field(default_factory=dict)
    #: Key -> its values; or a name of your choice -> {value's name: {key: value}}, for values of several keys.
    grid: dict[Label, list[Any] | dict[Label, Settings]] = Field(default_factory=dict)
    #: Settings point by point, {key: value}. `name`, where an entry has it, is what the table calls it.
    points: tuple[dict[str, Any], ...] = ()
    #: Key -> the distribution of its values.
    random: dict[Key, Distribution] = Field(default_factory=dict)
    #: Whether draws are independent, or made by Optuna from earlier results (`pip install 'fourm-engine[optuna]'`).
    sampler: Literal["independent", "optuna"] = "independent"
    #: Seed of the draws.
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    #: Values of the config's `seed`; error bars are over these.
    seeds: Seeds = (0,)
    measure: Measure = Field(default_factory=Measure)
    budget: Budget = Field(default_factory=Budget)
    #: Horizontal axes of scaling plots: keys with numbers, or what runs measure.
    scaling: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        axes = [*self.grid, *self.random]
        for name, values in self.grid.items():
            if isinstance(values, list) and not re.fullmatch(_KEY, name):
                raise ValueError(f"grid.{name} is a list of values, so {name!r} must be a key, such as train.lr")
        keys = Counter([*self.random, *(name for name, values in self.grid.items() if isinstance(values, list))])
        for values in self.grid.values():
            named = values.values() if isinstance(values, dict) else ()
            keys.update({key for settings in named for key in settings})
        keys.update({key for entry in self.points for key in entry} - {"name"})
        if several := [key for key, number in keys.items() if number > 1]:
            raise ValueError(f"{several[0]} is varied twice; keep one of grid, points and random for it")
        refuse_kept({*keys, *self.settings}, *KEPT)
        if not (axes or self.points or len(self.seeds) > 1):
            raise ValueError("nothing to vary; set grid, points, random or several seeds")
        if empty := [name for name, values in self.grid.items() if not values]:
            raise ValueError(f"grid.{empty[0]} has no value; give some, or leave it out")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one occurs twice; remove it")
        if self.random and self.budget.trials is None:
            raise ValueError("random needs the number of draws: set budget.trials")
        if self.budget.trials is not None and not self.random:
            raise ValueError("budget.trials counts the draws of `random`, and there is none; leave it out")
        if self.sampler == "optuna" and not self.random:
            raise ValueError("sampler: optuna draws the keys of `random`, and there are none; leave it out")
        lengths = {"train.steps", "train.samples", "train.tokens"} & {*keys, *self.settings}
        if lengths and self.budget.steps is not None:
            raise ValueError(f"budget.steps and {min(lengths)} both say how long trials are; keep one")
        return self


def read_file(path: Path, model: type[M], overrides: Sequence[str] = ()) -> M:
    """Read a sweep or suite file, with overrides `section.key=value`. Raises ConfigError, with one line per error."""
    raw = read_yaml(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and (match := _OF_SETTINGS.fullmatch(key)):
            origin = f"override {override!r}"
            set_key(raw, [*match[1].split("."), match[2]], read_value(value, origin), origin)
        else:
            apply_override(raw, override)
    for kind, key in (("sweep", "base"), ("suite", "encoders")):
        if key in raw and key not in model.model_fields:
            raise ConfigError(f"{path}: is the file of a {kind}, as its {key} says; type fourm {kind} {path}")
    if "data" in raw or "task" in raw:
        command = "finetune" if "task" in raw else "train"
        raise ConfigError(
            f"{path}: is the config of a run; type fourm {command} {path}, or name it in a file as in docs/sweeps.md"
        )
    return validated(model, raw, f"{path}: ")

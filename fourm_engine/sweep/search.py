"""Adaptive draws, based on earlier trials, by Optuna's TPE sampler.

In: the distributions, the draws so far and their results. Out: the values of the next draw. There is no database: the
study is rebuilt from the folder, so a sweep can be interrupted, and shared by several processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fourm_engine.sweep.config import Distribution
from fourm_engine.yaml_config import ConfigError
from fourm_plugins.extras import optional


def check_optuna() -> Any:
    """Import optuna. Raises ValueError if it is not installed."""
    return optional("optuna", what="sampler: optuna needs", install="fourm-engine[optuna]")


def next_draw(
    number: int,
    distributions: Mapping[str, Distribution],
    draws: Mapping[int, Mapping[str, Any]],
    values: Mapping[int, float | None],
    *,
    goal: str,
    seed: int,
) -> dict[str, Any]:
    """The values of draw `number`, given the earlier `draws` and their `values`: None means that one failed; absent
    ones are still running. Raises ConfigError if an earlier draw does not fit the distributions."""
    optuna = check_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {key: _space(optuna, distribution) for key, distribution in distributions.items()}
    # A separate seed for each draw, since the study is rebuilt each time. Running draws repel the next ones.
    sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + number) % (1 << 32), constant_liar=True)
    study = optuna.create_study(direction="minimize" if goal == "min" else "maximize", sampler=sampler)
    states = optuna.trial.TrialState
    for other, drawn in sorted(draws.items()):
        parameters = {key: _index(distributions[key], value) for key, value in drawn.items() if key in distributions}
        value = values.get(other)
        state = states.RUNNING if other not in values else states.FAIL if value is None else states.COMPLETE
        fitting = {key: spaces[key] for key in parameters}
        try:
            earlier = optuna.trial.create_trial(params=parameters, distributions=fitting, value=value, state=state)
            study.add_trial(earlier)
        except ValueError as error:
            reason = f"draw {other} is there and does not fit ({error})"
            raise ConfigError(f"random: {reason}; choose another `out`") from None
    trial = study.ask(spaces)
    return {key: _value(distributions[key], trial.params[key]) for key in distributions}


def _space(optuna: Any, distribution: Distribution) -> Any:
    spaces, (low, high) = optuna.distributions, distribution.bounds
    if distribution.choice is not None:  # by index, as Optuna supports few types of categories
        return spaces.CategoricalDistribution(list(range(len(distribution.choice))))
    if distribution.kind in ("integers", "log_integers"):
        high -= (high - low) % distribution.step
        return spaces.IntDistribution(low, high, log=distribution.kind == "log_integers", step=distribution.step)
    return spaces.FloatDistribution(low, high, log=distribution.kind == "log_uniform")


def _index(distribution: Distribution, value: Any) -> Any:
    """A value in Optuna's form."""
    if distribution.choice is None:
        return value
    return distribution.choice.index(value) if value in distribution.choice else -1


def _value(distribution: Distribution, parameter: Any) -> Any:
    if distribution.choice is not None:
        return distribution.choice[parameter]
    if distribution.kind in ("uniform", "log_uniform"):
        low, high = distribution.bounds
        return min(high, max(low, float(f"{parameter:.4g}")))
    return int(parameter)

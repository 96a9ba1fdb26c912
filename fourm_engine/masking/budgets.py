"""Budgets: how many tokens of each modality are inputs and targets (4M, arXiv 2312.06647, section 2.3).

In: the masking config, the specs, and for each sample a generator and its modalities. Out: `Drawn`.

A mixture component is drawn, for inputs and targets together. The total of each side is uniform in its range, and is
divided among the modalities by a sampler (`fourm_engine.masking.samplers`). Counts are capped by a modality's number of
tokens, or by its `max_tokens` (targets of unordered tokens: by what its inputs leave of that); the excess is lost. If a
count is below a modality's `min_tokens`, its whole side is redrawn.

Internally, sets of modalities are bit masks. A cache holds one entry per set, shared by all samples with that set.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import or_
from typing import Any

import numpy as np

from fourm_engine.masking.config import Component, Keep, MaskingConfig
from fourm_engine.masking.samplers import Pool
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.suggest import nearest

log = logging.getLogger(__name__)
DRAWS = 500  # of the mixture, to estimate numbers of tokens


@dataclass(frozen=True)
class Drawn:
    """Budgets of one sample: tokens per modality; modalities without any are absent."""

    component: str
    inputs: dict[str, int]
    targets: dict[str, int]
    keep: Mapping[str, Keep]

    @property
    def modalities(self) -> list[str]:
        """Those with a budget, by name."""
        return sorted(self.inputs.keys() | self.targets.keys())


@dataclass(frozen=True)
class Typical:
    """Mean input and target tokens per sample, by modality, and the maximum of either in a sample."""

    inputs: dict[str, float]
    targets: dict[str, float]
    most_inputs: int
    most_targets: int


class Budgets:
    """Draws budgets for samples that may lack modalities.

    Raises ValueError if an alpha gives a modality a role that it cannot have, or if no component is left. A name that
    is not among `specs` (its plugin is not installed) is reported once and ignored; so is a component left without
    targets, without any of its inputs, or without a modality that it requires."""

    def __init__(self, config: MaskingConfig, specs: Iterable[ModalitySpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self.config = config = config.counted(self._specs.values())
        #: The modalities of this run.
        self.names = tuple(sorted(self._specs))
        self._bit = {name: 1 << i for i, name in enumerate(self.names)}
        unknown: set[str] = set()
        self._sets: dict[frozenset[str], int] = {}
        strategies = [self._strategy(component, unknown) for component in config.mixture]
        self._components = [strategy for strategy in strategies if strategy is not None]
        dropout = config.input_dropout
        chances = [(self._bit[name], dropout.get(name, dropout.get("*", 0.0))) for name in self.names]
        shown = reduce(or_, (strategy.sides[0] for strategy in self._components), 0)
        self._dropout = [(bit, chance) for bit, chance in chances if chance > 0 and bit & shown]
        unknown |= (config.min_tokens.keys() | config.max_tokens.keys() | dropout.keys()) - self._bit.keys() - {"*"}
        self._warn_unknown(unknown)
        least, most = sum(config.min_tokens.values()), max(config.encoder_tokens, config.decoder_tokens)
        if least > most:
            log.warning("masking: min_tokens ask for %d tokens, more than any total; they are not kept", least)
        if not self._components:
            raise ValueError(f"masking.mixture: no component has inputs and targets among {', '.join(self.names)}")
        self._sequences = np.array([self._specs[name].layout.kind == "sequence" for name in self.names])
        self._limited = self.bits(config.min_tokens)
        self._feasible: dict[tuple[int, int], list[tuple[_Strategy, float]]] = {}
        self._pools: dict[tuple[str, int, int], Pool] = {}

    def _strategy(self, component: Component, unknown: set[str]) -> _Strategy | None:
        """A component of the mixture, or None if it is left out; adds its unknown names to `unknown`."""
        inputs = self._resolve(component, "input", component.input, unknown)
        targets = self._resolve(component, "target", component.target, unknown)
        unknown |= {*component.keep, *component.prefer, *component.ignore} - self._bit.keys() - {"*"}
        if why := self._unusable(component, inputs, targets):
            log.warning("masking: component %r %s among %s, left out", component.name, why, ", ".join(self.names))
            return None
        default = component.keep.get("*", "random")
        return _Strategy(
            component,
            (self.config.input_range(component), self.config.target_range(component)),
            (inputs, targets),
            (self.bits(inputs), self.bits(targets)),
            self.bits(component.require),
            tuple((self._bit[name], x) for name, x in component.prefer.items() if name in self._bit),
            self.bits(component.ignore),
            {name: component.keep.get(name, default) for name in self.names},
        )

    def _warn_unknown(self, unknown: Collection[str]) -> None:
        near = {name: nearest(name, self.names, cutoff=0.75) for name in sorted(unknown)}
        listed = [f"{name} (did you mean {near[name]!r}?)" if near[name] else name for name in near]
        if listed:
            log.warning("masking: not among the modalities of this run, left out: %s", ", ".join(listed))

    def _unusable(self, component: Component, inputs: Mapping[str, float], targets: Mapping[str, float]) -> str:
        lacking = [name for name in component.require if name not in self._bit]
        if lacking:
            return f"requires {', '.join(lacking)}, not"
        if not targets:
            return "has no target"
        return "" if inputs or self.config.input_range(component)[1] == 0 else "has no input"

    def _resolve(
        self, component: Component, side: str, given: Mapping[str, float], unknown: set[str]
    ) -> dict[str, float]:
        """Modality -> alpha > 0. A modality with an alpha of 0, published as 1e-9, never gets a token and is
        omitted."""
        alphas = {}
        for name, alpha in given.items():
            if name == "*":
                continue
            if name not in self._specs:
                unknown.add(name)
            elif alpha > 0 and not getattr(self._specs[name], side):
                raise ValueError(
                    f"masking.mixture: component {component.name!r} has {side} {name!r}: {alpha}, which can only be "
                    f"{'target' if side == 'input' else 'input'}; remove it"
                )
            else:
                alphas[name] = alpha
        if "*" in given:
            for name, spec in self._specs.items():
                if getattr(spec, side):
                    alphas.setdefault(name, given["*"])
        return {name: alpha for name, alpha in sorted(alphas.items()) if alpha > 0 and name not in component.ignore}

    def bits(self, modalities: Collection[str]) -> int:
        """A set as an int, in which bit i stands for `names[i]`; names outside this run are ignored."""
        if not isinstance(modalities, frozenset):
            return sum(self._bit.get(name, 0) for name in set(modalities))
        if modalities not in self._sets:
            self._sets[modalities] = sum(self._bit.get(name, 0) for name in modalities)
        return self._sets[modalities]

    def serve(self, available: Collection[str]) -> bool:
        """Whether `draw` can return budgets for a sample with the modalities `available`."""
        has = self.bits(available)
        return bool(self._strategies(has, has))

    def draw(self, rng: np.random.Generator, available: Collection[str]) -> Drawn | None:
        """Budgets for a sample with the modalities `available`; None if no component is possible. Components without an
        available target, without any of their inputs, or lacking a required modality are excluded; the weights of the
        rest keep their proportions."""
        has = self.bits(available)
        shows = has
        if self._dropout:
            for u, (bit, chance) in zip(rng.random(len(self._dropout)).tolist(), self._dropout, strict=True):
                shows &= ~bit if u < chance else -1
        strategies = self._strategies(has, shows)
        if not strategies and shows != has:
            shows, strategies = has, self._strategies(has, has)
        if not strategies:
            return None
        u, index = rng.random(), 0
        while u >= strategies[index][1] and index < len(strategies) - 1:
            index += 1
        strategy = strategies[index][0]
        input_pool, target_pool = self._pool(strategy, 0, shows), self._pool(strategy, 1, has)
        inputs = input_pool.draw(rng, *strategy.ranges[0])
        taken = np.zeros(len(self.names), np.int64)
        taken[input_pool.index] = inputs
        taken[self._sequences] = 0
        targets = target_pool.draw(rng, *strategy.ranges[1], taken[target_pool.index])
        given = {name: n for name, n in zip(input_pool.names, inputs.tolist(), strict=True) if n}
        wanted = {name: n for name, n in zip(target_pool.names, targets.tolist(), strict=True) if n}
        return Drawn(strategy.component.name, given, wanted, strategy.keep)

    def typical(self, kinds: Counter[frozenset[str]], seed: int) -> Typical:
        """Token counts over `DRAWS` draws. Raises ValueError if no sample can be used. kinds: set of modalities ->
        number of samples with exactly these."""
        served = {kind: number for kind, number in kinds.items() if self.serve(kind)}
        if not served:
            raise ValueError("no sample has inputs and targets under any component of masking.mixture")
        rng = np.random.default_rng(seed)
        inputs, targets, most_inputs, most_targets = Counter[str](), Counter[str](), 0, 0
        sets, weights = list(served), np.array(list(served.values())) / sum(served.values())
        for index in rng.choice(len(sets), DRAWS, p=weights).tolist():
            drawn = self.draw(rng, sets[index])
            if drawn is not None:
                inputs.update(drawn.inputs)
                targets.update(drawn.targets)
                most_inputs = max(most_inputs, sum(drawn.inputs.values()))
                most_targets = max(most_targets, sum(drawn.targets.values()))
        of_inputs, of_targets = ({name: n / DRAWS for name, n in total.items()} for total in (inputs, targets))
        return Typical(of_inputs, of_targets, most_inputs, most_targets)

    def _strategies(self, has: int, shows: int) -> list[tuple[_Strategy, float]]:
        """(strategy, cumulative weight in [0, 1]) of those that can be drawn for a sample that has `has` and may show
        `shows`."""
        if (has, shows) not in self._feasible:
            rows, cumulative = [], 0.0
            for strategy in self._components:
                (_, most), _ = strategy.ranges
                if strategy.sides[1] & has and (strategy.sides[0] & shows or not most) and not strategy.require & ~has:
                    factors = [factor for bit, factor in strategy.prefer if bit & has]
                    cumulative += strategy.component.weight * prod(factors)
                    rows.append((strategy, cumulative))
            _bound(self._feasible)[has, shows] = [(strategy, upto / cumulative) for strategy, upto in rows]
        return self._feasible[has, shows]

    def _pool(self, strategy: _Strategy, side: int, available: int) -> Pool:
        """The pool of one side (0: inputs, 1: targets). A modality with an alpha of 0 never reaches a minimum; then, as
        in the published code, every try fails and the last draw is used."""
        component, alphas = strategy.component, strategy.alphas[side]
        available &= (strategy.sides[side] | self._limited) & ~strategy.ignore
        key = component.name, side, available
        if key not in self._pools:
            names = tuple(name for name in alphas if self._bit[name] & available)
            held = {name: self._specs[name].layout.num_tokens for name in self.names if self._bit[name] & available}
            most = {name: min(tokens, self.config.max_tokens.get(name, tokens)) for name, tokens in held.items()}
            least = {name: n for name, n in self.config.min_tokens.items() if n and name in held}
            which = ("input", "target")[side]
            possible = {name: n for name, n in least.items() if getattr(self._specs[name], which)}
            reachable = all(name in alphas and n <= most[name] for name, n in possible.items())
            _bound(self._pools)[key] = Pool(
                names,
                np.array([self.names.index(name) for name in names], np.int64),
                np.array([alphas[name] for name in names], np.float64),
                np.array([most[name] for name in names], np.int64),
                np.array([possible.get(name, 0) for name in names], np.int64),
                self.config.max_tries if possible and reachable else 1,
                component.sampler or self.config.sampler,
                self.config.beta if side else None,
            )
        return self._pools[key]


@dataclass(frozen=True)
class _Strategy:
    """A component, restricted to the modalities of a run; pairs are (inputs, targets)."""

    component: Component
    ranges: tuple[tuple[int, int], tuple[int, int]]
    alphas: tuple[dict[str, float], ...]
    sides: tuple[int, int]  # bits of `alphas`
    require: int
    prefer: tuple[tuple[int, float], ...]
    ignore: int
    keep: dict[str, Keep]


def _bound(cache: dict[Any, Any]) -> dict[Any, Any]:
    """Empty `cache` if there are so many sets (dropout of many modalities) that it would grow without bound."""
    if len(cache) >= 10_000:
        cache.clear()
    return cache

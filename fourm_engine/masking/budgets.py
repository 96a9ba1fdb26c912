"""How many tokens of each modality are inputs and targets (4M, arXiv 2312.06647, section 2.3).

In: the masking config, the specs, and for each sample a generator and the modalities it has. Out: `Drawn`.

One mixture component is drawn for inputs and targets. Of each, the total N is uniform in its range, p ~
Dirichlet(alpha), counts = floor(p N), and every token left over goes to the largest entry of a Dirichlet draw of its
own. Counts are capped by what a modality holds, or by its `max_tokens` (targets of unordered tokens: by what its inputs
leave of that); what is cut off is lost. Counts below a modality's `min_tokens` are drawn again, all of one side
together.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fourm_engine.masking.config import Component, Keep, MaskingConfig
from fourm_plugins.spec import ModalitySpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """Budgets of one sample: tokens of each modality; modalities with none are absent."""

    component: str
    inputs: dict[str, int]
    targets: dict[str, int]
    keep: Mapping[str, Keep]

    @property
    def modalities(self) -> list[str]:
        """Those with a budget, by name."""
        return sorted(self.inputs.keys() | self.targets.keys())


@dataclass(frozen=True)
class _Pool:
    """One side (inputs or targets) of a component, restricted to what a sample has."""

    names: tuple[str, ...]
    alphas: np.ndarray  # (n,) float64, all > 0
    caps: np.ndarray  # (n,) int64
    least: np.ndarray  # (n,) int64
    tries: int  # 1 without a minimum, or with one that cannot be reached

    def draw(self, rng: np.random.Generator, low: int, high: int, taken: np.ndarray) -> np.ndarray:
        """Counts (n,) int64 within the caps, of which `taken` (n,) is used up. The last try counts, as published."""
        total = int(rng.integers(low, high + 1))
        for _ in range(self.tries):
            counts = np.minimum(self._shares(rng, total), np.maximum(self.caps - taken, 0))
            if (counts >= self.least).all():
                break
        return counts

    def _shares(self, rng: np.random.Generator, total: int) -> np.ndarray:
        """`total` tokens over the modalities."""
        if not self.names or not total:
            return np.zeros(len(self.names), np.int64)
        if len(self.names) == 1:
            return np.array([total], np.int64)
        # float32 as published: a share within half an ulp of 1 takes the whole budget.
        share = rng.dirichlet(self.alphas).astype(np.float32)
        counts = np.floor(share * np.float32(total)).astype(np.int64)
        left = total - int(counts.sum())
        if left > 0:
            counts += np.bincount(rng.dirichlet(self.alphas, size=left).argmax(1), minlength=len(counts))
        return counts


class Budgets:
    """Draws budgets for samples that may lack modalities.

    Raises ValueError where an alpha makes a modality what it cannot be, or no component is left. A name that is not
    among `specs` (a plugin not installed) is reported once and left out, and so is a component left without targets, or
    without inputs although it shows some."""

    def __init__(self, config: MaskingConfig, specs: Iterable[ModalitySpec]) -> None:
        self.config = config
        self._specs = {spec.name: spec for spec in specs}
        unknown: set[str] = set()
        self._alphas: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
        self._keep: dict[str, dict[str, Keep]] = {}
        self._components: list[Component] = []
        for component in config.mixture:
            inputs = self._resolve(component, "input", component.input, unknown)
            targets = self._resolve(component, "target", component.target, unknown)
            unknown |= component.keep.keys() - self._specs.keys() - {"*"}
            if not targets or (not inputs and config.input_range(component)[1] > 0):
                missing = "input" if targets else "target"
                log.warning(
                    "masking: component %r has no %s among %s, left out", component.name, missing, self._names()
                )
                continue
            self._components.append(component)
            self._alphas[component.name] = (inputs, targets)
            default = component.keep.get("*", "random")
            self._keep[component.name] = {name: component.keep.get(name, default) for name in self._specs}
        unknown |= (config.min_tokens.keys() | config.max_tokens.keys()) - self._specs.keys()
        if unknown:
            log.warning("masking: not among the modalities of this run, left out: %s", ", ".join(sorted(unknown)))
        least, most = sum(config.min_tokens.values()), max(config.encoder_tokens, config.decoder_tokens)
        if least > most:
            log.warning("masking: min_tokens ask for %d tokens, more than any total; they are not kept", least)
        if not self._components:
            raise ValueError(f"masking.mixture: no component has inputs and targets among {self._names()}")
        self._cache: dict[frozenset[str], list[tuple[Component, _Pool, _Pool, float]]] = {}

    def _names(self) -> str:
        return ", ".join(sorted(self._specs))

    def _resolve(
        self, component: Component, side: str, given: Mapping[str, float], unknown: set[str]
    ) -> dict[str, float]:
        """Modality -> alpha > 0. An alpha of 0, published as 1e-9, never gets a token, and is left out."""
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
        return {name: alpha for name, alpha in sorted(alphas.items()) if alpha > 0}

    def serve(self, available: Collection[str]) -> bool:
        """Whether `draw` has budgets for a sample that has the modalities `available`."""
        return bool(self._feasible(frozenset(available)))

    def draw(self, rng: np.random.Generator, available: Collection[str]) -> Drawn | None:
        """Budgets for a sample that has the modalities `available`.

        Components that have no target among them, or no input although they show some, are not drawn; the weights of
        the others keep their proportions. None where no component is left."""
        feasible = self._feasible(frozenset(available))
        if not feasible:
            return None
        u, index = rng.random(), 0
        while u >= feasible[index][3] and index < len(feasible) - 1:
            index += 1
        component, input_pool, target_pool, _ = feasible[index]
        none = np.zeros(len(input_pool.names), np.int64)
        inputs = input_pool.draw(rng, *self.config.input_range(component), none)
        shown = {name: int(n) for name, n in zip(input_pool.names, inputs) if n}
        unordered = [name if self._specs[name].layout.kind != "sequence" else "" for name in target_pool.names]
        taken = np.array([shown.get(name, 0) for name in unordered], np.int64)
        targets = target_pool.draw(rng, *self.config.target_range(component), taken)
        asked = {name: int(n) for name, n in zip(target_pool.names, targets) if n}
        return Drawn(component.name, shown, asked, self._keep[component.name])

    def _feasible(self, available: frozenset[str]) -> list[tuple[Component, _Pool, _Pool, float]]:
        """(component, inputs, targets, cumulative weight in [0, 1]) of those that can be drawn."""
        if available not in self._cache:
            rows, cumulative = [], 0.0
            for component in self._components:
                inputs, targets = (
                    self._pool(alphas, available, side)
                    for alphas, side in zip(self._alphas[component.name], ("input", "target"))
                )
                if targets.names and (inputs.names or self.config.input_range(component)[1] == 0):
                    cumulative += component.weight
                    rows.append((component, inputs, targets, cumulative))
            self._cache[available] = [(c, i, t, upto / cumulative) for c, i, t, upto in rows]
        return self._cache[available]

    def _pool(self, alphas: dict[str, float], available: frozenset[str], side: str) -> _Pool:
        """A modality that could be on this `side` and has an alpha of 0 never reaches a minimum; then, as published,
        every try fails, and the last draw counts."""
        names = tuple(name for name in alphas if name in available)
        held = {name: self._specs[name].layout.num_tokens for name in available if name in self._specs}
        most = {name: min(tokens, self.config.max_tokens.get(name, tokens)) for name, tokens in held.items()}
        asked = {name: n for name, n in self.config.min_tokens.items() if n and name in held}
        possible = {name: n for name, n in asked.items() if getattr(self._specs[name], side)}
        reachable = all(name in alphas and n <= most[name] for name, n in possible.items())
        return _Pool(
            names,
            np.array([alphas[name] for name in names], np.float64),
            np.array([most[name] for name in names], np.int64),
            np.array([possible.get(name, 0) for name in names], np.int64),
            self.config.max_tries if possible and reachable else 1,
        )

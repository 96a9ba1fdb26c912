"""Decoding orders from plugins; the engine registers its additional orders the same way. Built in are `parallel` (keep
the most confident), `random_order` (choose before decoding) and `autoregressive`.

In: an order's name, its settings, the layout, the plugin host. Out: `Order`, which validates the plugin's results.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from fourm_plugins.activation import blame
from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.order import DecodingOrder, Predicted
from fourm_plugins.spec import Layout

BUILT_IN = ("parallel", "random_order", "autoregressive")
T = TypeVar("T")


class Order:
    """The order called `name`. Raises PluginError if it cannot be used, ValueError for settings that it does not
    accept."""

    def __init__(self, name: str, host: PluginManager, layout: Layout, settings: Mapping[str, Any]) -> None:
        try:
            provided, self._plugin = host.order(name), host.find("order", name)
        except PluginError as error:
            raise PluginError(f"scheme {name!r}: {error} (built in: {', '.join(BUILT_IN)})") from error
        if isinstance(provided, type) and issubclass(provided, DecodingOrder):
            takes = list(inspect.signature(provided).parameters)[1:]
            if wrong := [setting for setting in settings if setting not in takes]:
                listed = ", ".join(takes) or "none"
                raise ValueError(f"order {name!r} has no setting {wrong[0]!r}; its settings: {listed}")
            self._order = provided(layout, **settings)
        elif settings:
            raise ValueError(f"order {name!r} has no settings; leave order={dict(settings)} out")
        else:
            self._order = _Scoring(layout, provided)  # type: ignore[arg-type]
        self.layout, self.adaptive = layout, self._order.adaptive

    def fixed_scores(self) -> Tensor | None:
        """float32 (n,): priorities fixed in advance, or None if `keep` decides in each step."""
        scores = self._call(self._order.fixed_scores)
        return None if scores is None else self._scores(scores, torch.ones(self.layout.num_tokens, dtype=torch.bool))

    def keep(self, predicted: Predicted) -> Tensor:
        """bool (n,): the unknown tokens to keep."""
        unknown_N = predicted.unknown
        scores_N = self._scores(self._call(self._order.score, predicted), unknown_N)
        count, left = predicted.count, int(unknown_N.sum())
        if self.adaptive:
            count = min(left, max(count, int(self._call(self._order.count, predicted))))
        scores_N = scores_N.to(predicted.confidence).masked_fill(~unknown_N, -torch.inf)
        kept_N = torch.zeros_like(unknown_N)
        kept_N[scores_N.argsort(descending=True, stable=True)[:count]] = True
        return kept_N & unknown_N

    def remask(self, predicted: Predicted) -> Tensor | None:
        """bool (n,): the known tokens to mask again; None for none."""
        remasked_N = self._call(self._order.remask, predicted)
        if remasked_N is None:
            return None
        self._check_shape(remasked_N, "remasks")
        if bool((remasked_N & (predicted.unknown | predicted.given)).any()):
            raise PluginError(f"{self._who} remasks tokens that are given or not yet known")
        return remasked_N

    @property
    def _who(self) -> str:
        return f"order {self._plugin.name!r} of {self._plugin.distribution} {self._plugin.version}"

    def _call(self, method: Callable[..., T], *arguments: Any) -> T:
        with blame(self._plugin):
            return method(*arguments)

    def _check_shape(self, given: Any, verb: str) -> None:
        n = self.layout.num_tokens
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        if shape != (n,):
            raise PluginError(f"{self._who} {verb} with {shape} instead of a tensor of {n} numbers")

    def _scores(self, scores_N: Any, where_N: Tensor) -> Tensor:
        self._check_shape(scores_N, "scores")
        if bool(scores_N[where_N.to(scores_N.device)].isnan().any()):
            raise PluginError(f"{self._who} scores with NaN instead of {len(scores_N)} numbers")
        return scores_N


class _Scoring(DecodingOrder):
    """An order defined by a plugin's scoring function; see `hookspecs.fourm_order`."""

    def __init__(self, layout: Layout, function: Callable[..., Tensor]) -> None:
        super().__init__(layout)
        self._function = function

    def score(self, predicted: Predicted) -> Tensor:
        unknown, uniform = predicted.unknown.clone(), predicted.uniform.clone()
        confidence = predicted.confidence.masked_fill(~unknown, -torch.inf)
        return self._function(confidence, unknown, predicted.step, predicted.steps, uniform)

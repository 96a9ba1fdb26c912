"""Decoding orders of packages: which tokens of a grid stay after a step. Built in are `parallel` (the most confident)
and `random_order` (chosen before they are decoded).

In: an order's name, the plugin host. Out: a score for each unknown token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fourm_plugins.activation import blame
from fourm_plugins.manager import PluginError, PluginManager

BUILT_IN = ("parallel", "random_order", "autoregressive")


class Order:
    """The order called `name`. Raises PluginError where it cannot be used."""

    def __init__(self, name: str, host: PluginManager) -> None:
        try:
            self._score, self._plugin = host.order(name), host.find("order", name)
        except PluginError as error:
            raise PluginError(f"scheme {name!r}: {error} (built in: {', '.join(BUILT_IN)})") from error

    def __call__(
        self, confidence_BM: Tensor, index_BM: Tensor, slot_BM: Tensor, uniform_Bn: Tensor, *, step: int, steps: int
    ) -> Tensor:
        """Scores (B, M) of the tokens at `index_BM`, where `slot_BM` holds; see `hookspecs.fourm_order`. Each sample is
        scored alone. Raises PluginError for anything but n numbers."""
        scores = torch.zeros_like(confidence_BM)
        for b, uniform_N in enumerate(uniform_Bn):
            index = index_BM[b, slot_BM[b]]
            unknown_N = torch.zeros_like(uniform_N, dtype=torch.bool)
            unknown_N[index] = True
            confidence_N = torch.full_like(uniform_N, -torch.inf)
            confidence_N[index] = confidence_BM[b, slot_BM[b]]
            with blame(self._plugin):
                score_N = self._score(confidence_N, unknown_N, step, steps, uniform_N.clone())
            given = tuple(score_N.shape) if isinstance(score_N, Tensor) else type(score_N).__name__
            if given != tuple(uniform_N.shape) or bool(score_N[index].isnan().any()):
                what = "NaN" if given == tuple(uniform_N.shape) else given
                raise PluginError(
                    f"order {self._plugin.name!r} of {self._plugin.distribution} {self._plugin.version} scores with "
                    f"{what}, not with a tensor of {len(uniform_N)} numbers"
                )
            scores[b, slot_BM[b]] = score_N[index].to(scores)
        return scores

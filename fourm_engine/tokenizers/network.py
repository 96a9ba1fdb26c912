"""TokenizerNetwork: the interface of a network with a discrete bottleneck, as used by the trainer and
`NeuralTokenizer`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fourm_engine.tokenizers.quantisers.base import Quantiser, full_precision, under


def chunk(device: torch.device) -> int:
    """Arrays per forward pass. Encoding always pads to a full chunk, so that every product has the same shape, and
    hence the same rounding, for any batch: ids do not depend on what else is encoded."""
    return 8 if device.type == "cpu" else 32


def filled(x: Tensor, size: int) -> Tensor:
    """Pad at least one row to a multiple of `size` rows, by repeating the last."""
    missing = -len(x) % size
    return torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x


class TokenizerNetwork(nn.Module):
    """A network with a discrete bottleneck, trained through `forward`."""

    quantiser: Quantiser

    @property
    def training_state(self) -> frozenset[str]:
        """Names of buffers needed only in training."""
        return frozenset(f"quantiser.{name}" for name in self.quantiser.training_state)

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sums of the loss terms over a batch of arrays; `NeuralTokenizer.counts` returns the number of items in
        each."""

    @abstractmethod
    def latents(self, x: Tensor) -> Tensor:
        """Arrays (B, …) -> latents before quantisation (B, N, d)."""

    @abstractmethod
    def reconstruct(self, latents_BNd: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Quantised latents -> outputs of the decoder. `grid`: (h, w) of the tokens, if it is not that of the network's
        spec."""

    def to_arrays(self, outputs: Tensor) -> Tensor:
        """Outputs of the decoder -> arrays (B, …)."""
        return outputs

    def encode(self, x: Tensor) -> Tensor:
        """Arrays (B, …) -> ids int64 (B, N), in `full_precision`."""
        with full_precision(x):
            return self.quantiser.nearest(self.latents(x))

    def decode(self, ids_BN: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Ids (B, N) -> arrays (B, …). `grid`: as of `reconstruct`."""
        return self.to_arrays(self.reconstruct(self.quantiser.lookup(ids_BN), grid))

    def decode_expected(self, probabilities_BNK: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Distributions over ids (B, N, K) -> arrays (B, …)."""
        return self.to_arrays(self.reconstruct(self.quantiser.expected(probabilities_BNK), grid))

    def blocks(self) -> list[nn.Module]:
        """Parts to shard separately over several GPUs."""
        return []

    def after_step(self, step: int, steps: int) -> None:
        """After the optimiser's `step` (from 0) of `steps`, in every process."""
        self.quantiser.after_step(step, steps)

    def after_average(self, averages: Mapping[str, Tensor]) -> None:
        """Recompute, in place, whatever is derived from averaged weights."""
        self.quantiser.after_average(under("quantiser.", averages))

    def progress(self) -> dict[str, Tensor]:
        """Scalars to log in training."""
        return self.quantiser.progress()

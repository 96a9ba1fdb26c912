"""Quantiser: the interface of a discrete bottleneck, and statistics of the use of its codes.

In: latents (..., d). Out: quantised latents that pass on the gradient, ids in [0, size), loss terms per latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

#: A code is in use if its average use is above this share of the mean use, and dead otherwise.
IN_USE = 0.05
#: Held-out ids per code from which on the use of a codebook is reported: even if all codes are equally likely, 2% are
#: missing by chance.
SAYING = 4
COMMITMENT, ENTROPY = "commitment", "entropy"


class Quantised(NamedTuple):
    latents: Tensor  # (..., d), carries the gradient to the encoder
    ids: Tensor | None  # (...) int64; None before the codebook is initialised
    losses: dict[str, Tensor]  # term of `loss_names` -> (...), with gradient


class Quantiser(nn.Module, ABC):
    """`size` codes of width `dim`. All processes of a run hold the same state: statistics of the latents that each has
    seen are summed over them in `after_step` and, if a loss depends on the whole batch, in `forward`."""

    #: Loss terms that `forward` returns, one number per latent.
    loss_names: tuple[str, ...] = ()
    #: Whether an id means a different code at each position, so that use is counted per position.
    positional: bool = False

    cluster_size: Tensor

    def __init__(self, size: int, dim: int, *, decay: float = 0.99) -> None:
        super().__init__()
        self.size, self.dim, self.decay = size, dim, decay
        self.register_buffer("cluster_size", torch.zeros(size))  # moving average: latents of each code per step
        # Statistics of the forward passes of one optimiser step on this rank. Lists, not buffers: they are empty after
        # each step, and hence whenever a checkpoint is written.
        self._seen_ids: list[Tensor] = []
        self._counted = False

    @property
    def training_state(self) -> frozenset[str]:
        """Buffers that only training needs; they are checkpointed, and not part of a fitted tokenizer."""
        return frozenset({"cluster_size"})

    @property
    def momentary(self) -> frozenset[str]:
        """Float buffers for which a moving average over the run is meaningless."""
        return frozenset()

    @abstractmethod
    def nearest(self, z: Tensor) -> Tensor:
        """Latents (..., d) -> ids (...) int64."""

    @abstractmethod
    def lookup(self, ids: Tensor) -> Tensor:
        """Ids (...) in [0, size) -> quantised latents (..., d)."""

    @abstractmethod
    def forward(self, z: Tensor) -> Quantised:
        """Always in float32: bf16 cannot distinguish codes. In training mode it also records what `after_step`
        needs."""

    def expected(self, probabilities: Tensor) -> Tensor:
        """Distributions over ids (..., size) -> the mean latents (..., d)."""
        return probabilities @ self.lookup(torch.arange(self.size, device=probabilities.device))

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """After the optimiser's `step` (from 0) of `steps`, in every process: learn from the forward passes since the
        last call. Changes only buffers, by arithmetic on the device, where a skipped step is undone: no synchronisation
        with the host, except when a codebook is initialised. Raises ValueError if it is too late to initialise one."""
        self._average_use()

    def after_average(self, averages: Mapping[str, Tensor]) -> None:
        """Recompute, in place, the buffers (by name) that are derived from averaged ones."""

    def mark_fitted(self) -> None:
        """The state was loaded from a fitted tokenizer: quantise from now on."""

    @property
    def counted(self) -> bool:
        """Whether codes have been used yet, so that `progress` is meaningful. Queries the device until they have."""
        self._counted = self._counted or bool(self.cluster_size.any())
        return self._counted

    def progress(self) -> dict[str, Tensor]:
        """From the moving averages: share of codes in use, perplexity / size, number of dead codes; 0 before any
        use."""
        return codebook_use(self.cluster_size, in_use=IN_USE)

    def _count(self, ids: Tensor) -> None:
        self._seen_ids.append(ids.reshape(-1))

    def _average_use(self, known: list[Tensor] | None = None) -> None:
        """`known`: for each forward pass, which of its ids count; None: all."""
        count = torch.zeros_like(self.cluster_size)
        for i, ids in enumerate(self._seen_ids):
            ones = torch.ones_like(ids) if known is None else known[i]
            count.index_add_(0, ids, ones.to(count.dtype))
        self._seen_ids.clear()
        if dist.is_initialized():
            dist.all_reduce(count)
        self.cluster_size.lerp_(count, 1 - self.decay)


def full_precision(like: Tensor) -> torch.autocast:
    """Context without autocast on the device of a tensor. Ids are computed in it by all callers: bf16 cannot
    distinguish codes, and an array must have the same ids in training and later."""
    return torch.autocast(like.device.type, enabled=False)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose names start with `prefix`, keyed by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def codebook_use(counts: Tensor, *, in_use: float = 0.0) -> dict[str, Tensor]:
    """How the codes of one or several codebooks are used.

    Args:
        counts: (..., size), how often each code occurs.
        in_use: a code is in use if its count is above this share of the codebook's mean.

    Returns scalars: "usage", the share of codes in use, and "perplexity", that of their distribution / size, both in
    [0, 1] and averaged over the codebooks; "dead codes", the number of unused codes in all codebooks. All 0 before any
    use."""
    size, total = counts.shape[-1], counts.sum(-1, keepdim=True)
    share = counts / total.clamp(min=1e-12)
    used = (counts > in_use * counts.mean(-1, keepdim=True)).to(share.dtype)
    perplexity = (-(share * share.clamp(min=1e-12).log()).sum(-1)).exp() / size
    started = total[..., 0] > 0
    return {
        "usage": used.mean(-1).mean(),
        "perplexity": torch.where(started, perplexity, 0.0).mean(),
        "dead codes": torch.where(started, size - used.sum(-1), 0.0).sum(),
    }


def count_codes(ids: Tensor, size: int, *, positional: bool = False) -> Tensor:
    """How often each code occurs in ids: float64 (size,), or (N, size) if each position of ids (..., N) has its own
    codes."""
    if not positional:
        return torch.bincount(ids.reshape(-1), minlength=size).double()
    return torch.stack([count_codes(column, size) for column in ids.reshape(-1, ids.shape[-1]).unbind(1)])


def usage_of(ids: Iterable[np.ndarray], size: int, *, positional: bool = False, least: float = 0.0) -> dict[str, float]:
    """`codebook_use` of rows of ids, int64 (tokens,) each, as `Tokenizer.encode` returns them; {} if a codebook has
    fewer than `least` ids per code, so that codes are missing by chance."""
    rows = (np.stack if positional else np.concatenate)(list(ids))
    if len(rows) < least * size:
        return {}
    counts = count_codes(torch.from_numpy(rows), size, positional=positional)
    return {name: value.item() for name, value in codebook_use(counts).items()}

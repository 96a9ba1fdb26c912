"""Vector quantisation: a codebook learned by moving averages (van den Oord et al. 2017, appendix A.1).

In: latents (..., d). Out: the nearest codes, passed straight through to the gradient, their ids, and the commitment
loss of each latent.

The codebook takes no gradient. Each optimiser step, `update` moves every code towards the mean of the latents it was
nearest to; codes that fall out of use are put where latents are. Counts and sums are added up over all ranks, so a
run on several processes learns the codebook that one process would learn from the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

SMOOTHING = 1e-5  # Laplace smoothing of the cluster sizes, in latents
LLOYD_ITERATIONS = 12
RECENT_PER_CODE = 32  # latents that the k-means start sees, a code
DISTANCES_AT_ONCE = 1 << 25  # bounds the memory of the distance matrix (numbers)


class Quantised(NamedTuple):
    latents: Tensor  # (..., d), carries the gradient to the encoder
    ids: Tensor | None  # (...) int64; None before the codebook has started
    commitment: Tensor  # (...), squared distance of each latent to its code, with gradient


class VectorQuantiser(nn.Module):
    """A codebook of `size` codes of width `dim`.

    normalise: compare by cosine, and keep learned codes at unit length (4M, appendix B). Codes that are loaded may
    have any
        length: the cosine decides, and the quantised latent is the code as it is stored.
    decay: of the moving averages, an optimiser step.
    restart_below: a code whose average use falls below this share of the mean use is restarted at a latent of the
    batch.

    Until `start` is called, latents pass unquantised (a plain autoencoder) and the most recent are kept for k-means.
    """

    codes: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    recent: Tensor
    counter: Tensor
    started: Tensor
    batch_count: Tensor
    batch_sum: Tensor

    #: Buffers that only training needs; they are checkpointed, and not part of a fitted tokenizer.
    TRAINING_STATE = ("cluster_size", "cluster_sum", "recent", "counter", "started")

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        normalise: bool,
        decay: float = 0.99,
        restart_below: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.dim, self.normalise = size, dim, normalise
        self.decay, self.restart_below, self.seed = decay, restart_below, seed
        self.register_buffer("codes", torch.zeros(size, dim))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("cluster_sum", torch.zeros(size, dim))
        self.register_buffer("recent", torch.zeros(RECENT_PER_CODE * size, dim))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))  # latents in `recent`, later updates
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        # What the forward passes of one optimiser step saw on this rank.
        self.register_buffer("batch_count", torch.zeros(size), persistent=False)
        self.register_buffer("batch_sum", torch.zeros(size, dim), persistent=False)
        self._batch_latents: list[Tensor] = []

    def nearest(self, z: Tensor) -> Tensor:
        """Ids (...) int64 of the codes nearest to (..., d), by cosine or Euclidean distance; the lowest of equals."""
        codes = F.normalize(self.codes, dim=-1) if self.normalise else self.codes
        # argmin |z - c|² = argmax z·c - |c|²/2; for unit codes the cosine, as |z| does not matter.
        bias = torch.zeros_like(codes[:, 0]) if self.normalise else -0.5 * codes.square().sum(-1)
        rows = max(1, DISTANCES_AT_ONCE // self.size)
        parts = [torch.addmm(bias, part, codes.T).argmax(-1) for part in z.reshape(-1, self.dim).float().split(rows)]
        return torch.cat(parts).reshape(z.shape[:-1])

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes (..., d) of ids (...)."""
        return F.embedding(ids, self.codes)

    def forward(self, z: Tensor) -> Quantised:
        """In training the statistics of the batch are kept for `update`. Always float32: bf16 cannot tell codes
        apart."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            if self.normalise:
                z = F.normalize(z, dim=-1)
            if self.training:
                self._batch_latents.append(z.detach().reshape(-1, self.dim))
            if not self.started:
                return Quantised(z, None, torch.zeros_like(z[..., 0]))
            ids = self.nearest(z.detach())
            codes = self.lookup(ids)
            if self.training:
                self.batch_count.index_add_(0, ids.reshape(-1), torch.ones_like(z[..., 0]).reshape(-1))
                self.batch_sum.index_add_(0, ids.reshape(-1), z.detach().reshape(-1, self.dim))
            return Quantised(z + (codes - z).detach(), ids, (z - codes).square().sum(-1))

    @torch.no_grad()
    def update(self) -> int:
        """Once after each optimiser step, on every rank: learn from what the forward passes saw since the last call.

        Returns the number of latents in the batch of all ranks."""
        latents = _gather(torch.cat(self._batch_latents))
        self._batch_latents.clear()
        if not latents.isfinite().all():  # left over from a step that the trainer skipped
            self.batch_count.zero_()
            self.batch_sum.zero_()
            return len(latents)
        if not self.started:
            place = (self.counter + torch.arange(len(latents), device=latents.device)) % len(self.recent)
            self.recent[place] = latents
            self.counter += len(latents)
            return len(latents)
        if dist.is_initialized():
            dist.all_reduce(self.batch_count)
            dist.all_reduce(self.batch_sum)
        self.cluster_size.lerp_(self.batch_count, 1 - self.decay)
        self.cluster_sum.lerp_(self.batch_sum, 1 - self.decay)
        self.batch_count.zero_()
        self.batch_sum.zero_()
        self.counter += 1
        self._restart_unused(latents)
        self._recompute_codes()
        return len(latents)

    @property
    def ready(self) -> bool:
        """Whether enough latents have been seen to place the codes."""
        return int(self.counter) >= self.size

    def progress(self) -> dict[str, Tensor]:
        """Share of codes in use and perplexity / size, by the moving averages; 0 before the start."""
        share = self.cluster_size / self.cluster_size.sum().clamp(min=1e-12)
        used = (self.cluster_size > self.restart_below * self.cluster_size.mean()).float().mean()
        perplexity = torch.where(self.started, (-(share * share.clamp(min=1e-12).log()).sum()).exp() / self.size, 0.0)
        return {"usage": used, "perplexity": perplexity}

    @torch.no_grad()
    def start(self, batch: int) -> None:
        """Place the codes by k-means on the most recent latents, and quantise from now on; `batch` latents an
        update."""
        assert self.ready
        points = self.recent[: int(self.counter)]
        generator = torch.Generator().manual_seed(self.seed)
        self.codes.copy_(points[torch.randperm(len(points), generator=generator)[: self.size].to(points.device)])
        for _ in range(LLOYD_ITERATIONS):
            ids = self.nearest(points)
            count, total = torch.zeros_like(self.cluster_size), torch.zeros_like(self.cluster_sum)
            count.index_add_(0, ids, torch.ones_like(points[:, 0]))
            total.index_add_(0, ids, points)
            empty = (count == 0).nonzero()[:, 0]
            replaced = points[torch.randperm(len(points), generator=generator)[: len(empty)].to(points.device)]
            total[empty], count[empty] = replaced, 1.0
            self.cluster_size.copy_(count)
            self.cluster_sum.copy_(total)
            self._recompute_codes()
        if dist.is_initialized():  # summation order may differ between devices
            for buffer in (self.cluster_size, self.cluster_sum, self.codes):
                dist.broadcast(buffer, 0)
        # Weigh the clusters as one batch, which is what the moving averages hold.
        self.cluster_size *= batch / len(points)
        self.cluster_sum *= batch / len(points)
        self.counter.zero_()
        self.started.fill_(True)

    def _recompute_codes(self) -> None:
        if self.normalise:
            self.codes.copy_(F.normalize(self.cluster_sum, dim=-1))
            return
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + SMOOTHING) / (total + self.size * SMOOTHING) * total
        self.codes.copy_(self.cluster_sum / smoothed[:, None])

    def _restart_unused(self, latents: Tensor) -> None:
        """Move codes that are hardly used to latents drawn from the batch; the draw is the same on all ranks."""
        threshold = self.restart_below * self.cluster_size.mean()
        unused = (self.cluster_size < threshold).nonzero()[:, 0]
        if not len(unused):
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.counter))
        drawn = torch.randperm(len(latents), generator=generator)[: len(unused)].to(latents.device)
        unused = unused[: len(drawn)]
        weight = 2 * threshold  # light, so that the code follows its new latents quickly
        self.cluster_size[unused] = weight
        self.cluster_sum[unused] = latents[drawn] * weight


def usage(ids: Tensor, size: int) -> tuple[float, float]:
    """(share of the `size` codes that occur in `ids`, perplexity of their distribution / size), both in (0, 1]."""
    share = torch.bincount(ids.reshape(-1), minlength=size).double() / ids.numel()
    used = share[share > 0]
    return len(used) / size, float((-(used * used.log()).sum()).exp()) / size


def _gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order: the order they have in the batch of a single process."""
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)

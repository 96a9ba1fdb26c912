"""Vector quantisation: a codebook learned by moving averages (van den Oord et al. 2017, appendix A.1).

In: latents (..., d). Out: the nearest codes (straight-through), their ids, and each latent's commitment loss.

The codebook takes no gradient. Each optimiser step, `update` moves every code towards the mean of the latents it was
nearest to; codes that fall out of use are put where latents are. Counts and sums are added up over all ranks, so a
run on several processes learns the codebook that one process would learn from the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.tokenizers.quantisers.base import COMMITMENT, Quantised, Quantiser, full_precision

SMOOTHING = 1e-5  # Laplace smoothing of the cluster sizes, in latents
LLOYD_ITERATIONS = 12
RECENT_PER_CODE = 32  # latents that the k-means start sees, a code
SPLIT = 0.01  # how far the halves of a split code move apart, as a share of its length
DISTANCES_AT_ONCE = 1 << 25  # bounds the memory of the distance matrix (numbers)


class VectorQuantiser(Quantiser):
    """A codebook of `size` codes of width `dim`.

    normalise: compare by cosine, and keep learned codes at unit length (4M, appendix B). Codes that are loaded may
        have any length: the cosine decides, and the quantised latent is the code as it is stored.
    decay: of the moving averages, an optimiser step.
    restart_below: a code whose average use falls below this share of the mean use is restarted; 0 never restarts.
    restart: where. "batch": at a latent of the batch; "split": beside a code that is used much, whose latents the two
        then share out.
    warmup: share of the steps before the codes are placed.
    kmeans_start: place them by k-means on recent latents, else at random (`start`).

    Until the codes are placed, latents pass unquantised (a plain autoencoder) and the most recent are kept."""

    loss_names = (COMMITMENT,)

    codes: Tensor
    cluster_sum: Tensor
    recent: Tensor
    counter: Tensor
    started: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        normalise: bool,
        decay: float = 0.99,
        restart_below: float = 0.05,
        restart: Literal["batch", "split"] = "batch",
        warmup: float = 0.2,
        kmeans_start: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(size, dim, decay=decay)
        self.normalise, self.seed = normalise, seed
        self.restart_below, self.restart = restart_below, restart
        self.warmup, self.kmeans_start = warmup, kmeans_start
        self.register_buffer("codes", torch.zeros(size, dim))
        self.register_buffer("cluster_sum", torch.zeros(size, dim))
        self.register_buffer("recent", torch.zeros(RECENT_PER_CODE * size, dim))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))  # latents in `recent`, later updates
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._seen_latents: list[Tensor] = []  # (n, d), of every forward pass of one optimiser step on this rank

    @property
    def training_state(self) -> frozenset[str]:
        return frozenset({"cluster_size", "cluster_sum", "recent", "counter", "started"})

    @property
    def momentary(self) -> frozenset[str]:
        return frozenset({"recent"})

    def nearest(self, z: Tensor) -> Tensor:
        """Ids (...) int64 of the codes nearest to (..., d), by cosine or Euclidean distance; the lowest of equals."""
        with full_precision(z):
            codes = F.normalize(self.codes, dim=-1) if self.normalise else self.codes
            # argmin |z - c|² = argmax z·c - |c|²/2; for unit codes the cosine, as |z| does not matter.
            bias = torch.zeros_like(codes[:, 0]) if self.normalise else -0.5 * codes.square().sum(-1)
            z_nd = z.reshape(-1, self.dim).float()
            parts = z_nd.split(max(1, DISTANCES_AT_ONCE // self.size))
            return torch.cat([_argmax(torch.addmm(bias, part, codes.T)) for part in parts]).reshape(z.shape[:-1])

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes (..., d) of ids (...)."""
        return F.embedding(ids, self.codes)

    def forward(self, z: Tensor) -> Quantised:
        """In training the statistics of the batch are kept for `update`."""
        with full_precision(z):
            z = z.float()
            if self.normalise:
                z = F.normalize(z, dim=-1)
            if self.training:
                self._seen_latents.append(z.detach().reshape(-1, self.dim))
            if not self.started:
                return Quantised(z, None, {COMMITMENT: torch.zeros_like(z[..., 0])})
            ids = self.nearest(z.detach())
            codes = self.lookup(ids)
            if self.training:
                self._count(ids)
            return Quantised(z + (codes - z).detach(), ids, {COMMITMENT: (z - codes).square().sum(-1)})

    @torch.no_grad()
    def update(self) -> int:
        """Once after each optimiser step, on every rank: learn from what the forward passes saw since the last call.

        Returns the number of latents in the batch of all ranks. Latents that are not finite count nowhere."""
        batches = self._seen_latents
        latents = _gather(torch.cat(batches))
        if not (finite := latents.isfinite().all(-1)).all():
            latents = latents[finite]
            known = [z.isfinite().all(-1) for z in batches]
            batches = [z[rows] for z, rows in zip(batches, known, strict=True)]
            self._seen_ids = [ids[rows] for ids, rows in zip(self._seen_ids, known, strict=bool(self.started))]
        self._seen_latents = []
        if not self.started:
            slot = (self.counter + torch.arange(len(latents), device=latents.device)) % len(self.recent)
            self.recent[slot] = latents
            self.counter += len(latents)
            return len(latents)
        batch_sum = torch.zeros_like(self.cluster_sum)
        for ids, z in zip(self._seen_ids, batches, strict=True):
            batch_sum.index_add_(0, ids, z)
        self._average_use()
        if dist.is_initialized():
            dist.all_reduce(batch_sum)
        self.cluster_sum.lerp_(batch_sum, 1 - self.decay)
        self.counter += 1
        self._restart_unused(latents)
        self._recompute_codes()
        return len(latents)

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        batch = self.update()
        if self.started:
            return
        if step + 1 >= self.warmup * steps and self.ready:
            self.start(batch)
        elif step + 1 == steps:
            raise ValueError(
                f"{steps} steps showed the codebook fewer latents than its {self.size} codes; fit for more steps, "
                f"with larger batches or a smaller codebook"
            )

    def discard(self) -> None:
        super().discard()
        self._seen_latents.clear()

    def after_average(self, averages: Mapping[str, Tensor]) -> None:
        """The codes of averaged counts and sums. Codes themselves are not averaged: one that was restarted would lie
        between where it was and where it is, and unit vectors would shrink."""
        if self.started:
            averages["codes"].copy_(self._means(averages["cluster_size"], averages["cluster_sum"]))

    def mark_fitted(self) -> None:
        self.started.fill_(True)

    @property
    def ready(self) -> bool:
        """Whether enough latents have been seen to place the codes."""
        return int(self.counter) >= self.size

    @torch.no_grad()
    def start(self, batch: int) -> None:
        """Place the codes and quantise from now on; `batch` latents an update.

        By k-means on the most recent latents; or at random, without looking at where they crowd: unit vectors of
        random direction, or for Euclidean codes normal numbers of the latents' mean and deviation."""
        assert self.ready
        points = self.recent[: int(self.counter)]
        generator = torch.Generator().manual_seed(self.seed)
        if self.kmeans_start:
            self._k_means(points, generator)
        else:
            drawn = torch.randn(self.size, self.dim, generator=generator).to(points.device)
            self.cluster_size.fill_(len(points) / self.size)
            self.codes.copy_(F.normalize(drawn, dim=-1) if self.normalise else points.mean(0) + drawn * points.std(0))
            self.cluster_sum.copy_(self.codes * self.cluster_size[:, None])
        if dist.is_initialized():  # summation order may differ between devices
            for buffer in (self.cluster_size, self.cluster_sum, self.codes):
                dist.broadcast(buffer, 0)
        # Weigh the clusters as one batch, which is what the moving averages hold.
        self.cluster_size *= batch / len(points)
        self.cluster_sum *= batch / len(points)
        self.counter.zero_()
        self.started.fill_(True)

    def _k_means(self, points: Tensor, generator: torch.Generator) -> None:
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

    def _recompute_codes(self) -> None:
        self.codes.copy_(self._means(self.cluster_size, self.cluster_sum))

    def _means(self, size: Tensor, summed: Tensor) -> Tensor:
        if self.normalise:
            return F.normalize(summed, dim=-1)
        total = size.sum()
        smoothed = (size + SMOOTHING) / (total + self.size * SMOOTHING) * total
        return summed / smoothed[:, None]

    def _restart_unused(self, latents: Tensor) -> None:
        """Move codes that are hardly used to where latents are; the draw is the same on all ranks."""
        threshold = self.restart_below * self.cluster_size.mean()
        unused = (self.cluster_size < threshold).nonzero()[:, 0]
        if not len(unused):
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.counter))
        if self.restart == "split":
            self._split(unused, threshold, generator)
            return
        drawn = torch.randperm(len(latents), generator=generator)[: len(unused)].to(latents.device)
        unused = unused[: len(drawn)]
        weight = 2 * threshold  # light, so that the code follows its new latents quickly
        self.cluster_size[unused] = weight
        self.cluster_sum[unused] = latents[drawn] * weight

    def _split(self, unused: Tensor, threshold: Tensor, generator: torch.Generator) -> None:
        """Each unused code takes half of one of the most used codes, a little to one side; the other half moves to the
        other side. Codes of which a half would be unused are not split."""
        size, parents = self.cluster_size.sort(descending=True, stable=True)
        parents = parents[: int((size >= 2 * threshold).sum())][: len(unused)]
        unused = unused[: len(parents)]
        half = self.cluster_size[parents] / 2
        mean = self.cluster_sum[parents] / self.cluster_size[parents, None]
        aside = torch.randn(len(parents), self.dim, generator=generator).to(mean.device)
        aside = SPLIT * mean.norm(dim=-1, keepdim=True) * F.normalize(aside, dim=-1)
        self.cluster_size[parents], self.cluster_size[unused] = half, half
        self.cluster_sum[parents] = (mean - aside) * half[:, None]
        self.cluster_sum[unused] = (mean + aside) * half[:, None]


def _argmax(scores: Tensor) -> Tensor:
    """`scores.argmax(-1)`: the first of equals. On a CPU by NumPy, which takes a quarter of the time."""
    if scores.device.type != "cpu" or torch.compiler.is_compiling():
        return scores.argmax(-1)
    return torch.from_numpy(scores.numpy().argmax(-1))


def _gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order: the order they have in the batch of a single process."""
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)

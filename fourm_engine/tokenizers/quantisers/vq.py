"""Vector quantisation: a codebook learned by moving averages (van den Oord et al. 2017, appendix A.1).

In: latents (..., d). Out: the nearest codes (straight-through), their ids, and the commitment loss of each latent.

The codebook has no gradient. After each optimiser step, `update` moves every code towards the mean of the latents that
it was nearest to; unused codes are moved to where latents are. Counts and sums are reduced over all ranks, so that a
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
RECENT_PER_CODE = 32  # latents per code for the k-means initialisation
SPLIT = 0.01  # distance between the halves of a split code, as a share of its length
DISTANCES_AT_ONCE = 1 << 25  # bounds the memory of the distance matrix (numbers)


class VectorQuantiser(Quantiser):
    """A codebook of `size` codes of width `dim`.

    normalise: compare by cosine, and keep learned codes at unit length (4M, appendix B). Loaded codes may
        have any length: the comparison is by cosine, and the quantised latent is the stored code.
    decay: of the moving averages, per optimiser step.
    restart_below: a code whose average use falls below this share of the mean use is restarted; 0 never restarts.
    restart: where. "batch": at a latent of the batch; "split": next to a frequently used code, whose latents the two
        then share.
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
        self._seen_latents: list[Tensor] = []  # (n, d), from every forward pass of one optimiser step on this rank
        self._known: bool | None = None  # the host's cached copy of `started`

    @property
    def training_state(self) -> frozenset[str]:
        return frozenset({"cluster_size", "cluster_sum", "recent", "counter", "started"})

    @property
    def momentary(self) -> frozenset[str]:
        return frozenset({"recent"})

    def nearest(self, z: Tensor) -> Tensor:
        """Ids (...) int64 of the codes nearest to (..., d), by cosine or Euclidean distance; the lowest id on a tie."""
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
        """In training, statistics of the batch are recorded for `update`."""
        with full_precision(z):
            z = z.float()
            if self.normalise:
                z = F.normalize(z, dim=-1)
            if self.training:
                self._seen_latents.append(z.detach().reshape(-1, self.dim))
            if not self._quantises():
                return Quantised(z, None, {COMMITMENT: torch.zeros_like(z[..., 0])})
            ids = self.nearest(z.detach())
            codes = self.lookup(ids)
            if self.training:
                self._count(ids)
            return Quantised(z + (codes - z).detach(), ids, {COMMITMENT: (z - codes).square().sum(-1)})

    @torch.no_grad()
    def update(self, step: int = 0) -> Tensor:
        """Once after each optimiser `step`, on every rank: learn from the forward passes since the last call.

        Returns the number of latents in the batch over all ranks, on their device. Non-finite latents are not
        counted."""
        batches, self._seen_latents = self._seen_latents, []
        latents = _gather(torch.cat(batches))
        finite = latents.isfinite().all(-1)
        latents, number = torch.where(finite[:, None], latents, 0.0), finite.sum()
        if not self._quantises():
            last = len(self.recent)  # an extra row collects the non-finite latents
            slot = torch.where(finite, (self.counter + finite.cumsum(0) - 1) % last, last)
            self.recent.copy_(torch.cat([self.recent, self.recent[:1]]).index_put((slot,), latents)[:-1])
            self.counter += number
            return number
        known = [z.isfinite().all(-1) for z in batches]
        batch_sum = torch.zeros_like(self.cluster_sum)
        for ids, z, rows in zip(self._seen_ids, batches, known, strict=True):
            batch_sum.index_add_(0, ids, torch.where(rows[:, None], z, 0.0))
        self._average_use(known)
        if dist.is_initialized():
            dist.all_reduce(batch_sum)
        self.cluster_sum.lerp_(batch_sum, 1 - self.decay)
        self._restart_unused(latents, finite, step)
        self._recompute_codes()
        return number

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        batch = self.update(step)
        if self._quantises():
            return
        if step + 1 >= self.warmup * steps and self.ready:
            self.start(batch)
        elif step + 1 == steps:
            raise ValueError(
                f"{steps} steps showed the codebook fewer latents than its {self.size} codes; fit for more steps, "
                f"with larger batches or a smaller codebook"
            )

    def after_average(self, averages: Mapping[str, Tensor]) -> None:
        """Recompute the codes from averaged counts and sums. Codes are not averaged themselves: a restarted one would
        end up between its old and new position, and unit vectors would shrink."""
        if self._quantises():
            averages["codes"].copy_(self._means(averages["cluster_size"], averages["cluster_sum"]))

    def mark_fitted(self) -> None:
        self.started.fill_(True)
        self._known = None

    @property
    def counted(self) -> bool:
        return self._quantises()

    def _quantises(self) -> bool:
        """The value of `started`, read from the device once."""
        if self._known is None:
            self._known = bool(self.started)
        return self._known

    def train(self, mode: bool = True) -> VectorQuantiser:
        self._known = None  # a checkpoint may have been loaded
        return super().train(mode)

    @property
    def ready(self) -> bool:
        """Whether enough latents have been seen to place the codes."""
        return int(self.counter) >= self.size

    @torch.no_grad()
    def start(self, batch: Tensor | int) -> None:
        """Place the codes and quantise from now on; `batch` latents per update.

        By k-means on the most recent latents; or at random, ignoring their clusters: unit vectors of random direction,
        or for Euclidean codes normal numbers with the latents' mean and deviation."""
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
        # Weight the clusters like one batch, as the moving averages do.
        self.cluster_size *= batch / len(points)
        self.cluster_sum *= batch / len(points)
        self.counter.zero_()
        self.started.fill_(True)
        self._known = None  # the step may be skipped

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

    def _restart_unused(self, latents: Tensor, finite: Tensor, step: int) -> None:
        """Move rarely used codes to where latents are; the draw is the same on all ranks. Their number is known only on
        the device, so all shapes are those of the codebook and of the batch."""
        if not self.restart_below or not len(latents):
            return
        threshold = self.restart_below * self.cluster_size.mean()
        unused = self.cluster_size < threshold
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        if self.restart == "split":
            self._split(unused, threshold, generator)
            return
        order = torch.randperm(len(latents), generator=generator).to(latents.device)
        drawn = order[(~finite[order]).byte().argsort(stable=True)]  # finite ones first
        number = unused.cumsum(0) - 1  # including that of an unused code
        moved = unused & (number < finite.sum())
        weight = 2 * threshold  # a small count, so that the code adapts to its new latents quickly
        at = latents[drawn[number.clamp(0, len(latents) - 1)]]
        self.cluster_size.copy_(torch.where(moved, weight, self.cluster_size))
        self.cluster_sum.copy_(torch.where(moved[:, None], at * weight, self.cluster_sum))

    def _split(self, unused: Tensor, threshold: Tensor, generator: torch.Generator) -> None:
        """Each unused code takes half of one of the most used codes, offset slightly to one side; the other half moves
        to the other side. Codes whose halves would be unused are not split."""
        size, parents = self.cluster_size.sort(descending=True, stable=True)
        children = (~unused).byte().argsort(stable=True)  # the unused ones first
        number = torch.arange(self.size, device=unused.device)
        splits = (number < unused.sum()) & (size >= 2 * threshold)
        half, mean = size / 2, self.cluster_sum[parents] / size[:, None]
        aside = torch.randn(self.size, self.dim, generator=generator).to(mean.device)
        aside = SPLIT * mean.norm(dim=-1, keepdim=True) * F.normalize(aside, dim=-1)
        for codes, moved in ((parents, mean - aside), (children, mean + aside)):
            sizes, sums = self.cluster_size[codes], self.cluster_sum[codes]
            self.cluster_size.index_copy_(0, codes, torch.where(splits, half, sizes))
            self.cluster_sum.index_copy_(0, codes, torch.where(splits[:, None], moved * half[:, None], sums))


def _argmax(scores: Tensor) -> Tensor:
    """`scores.argmax(-1)`: the first index on a tie. On a CPU by NumPy, which takes a quarter of the time."""
    if scores.device.type != "cpu" or torch.compiler.is_compiling():
        return scores.argmax(-1)
    return torch.from_numpy(scores.detach().numpy().argmax(-1))


def _gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, which is their order in the batch of a single process."""
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)

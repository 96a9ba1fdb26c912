"""Probes: classifiers on frozen features.

In: features of training and validation samples, and their classes. Out: scores (n, C), whose argmax is the prediction.
This module has no access to the encoder, so no probe can train it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.nn.pooling import AttentivePooling

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from fourm_engine.storage.mapped import MappedArray

#: kNN settings of DINO (arXiv 2104.14294) and 4M-21.
NEIGHBOURS, TEMPERATURE = 20, 0.07
#: Candidate weight decays of the linear probe, as factors of the sum of squared weights.
WEIGHT_DECAYS = tuple(10.0**power for power in range(1, -6, -1))
#: Weight decay of few-shot probes, which have too few samples to select it.
FEW_SHOT_DECAY = 1e-2
#: AdamW weight decays of the attentive probe.
ATTENTIVE_DECAYS = (0.3, 0.03, 0.003)
ATTENTIVE_RATE = 1e-3
HELD_OUT = 0.2
_BLOCK = 1 << 10


@dataclass(frozen=True, eq=False)
class Labelled:
    """n samples with their classes in [0, C). `tokens` (possibly memory-mapped) and `valid`, if needed, may hold
    further samples; those of sample i are at `rows[i]`."""

    names: list[str]
    labels: Int[Tensor, " n"]
    pooled: Float[Tensor, "n D"]
    tokens: Float[np.ndarray, "m N D"] | MappedArray | None = field(default=None, repr=False)
    valid: Bool[np.ndarray, "m N"] | None = field(default=None, repr=False)
    rows: Int[np.ndarray, " n"] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: Tensor) -> Labelled:
        index = rows.numpy()
        names, at = [self.names[i] for i in index], index if self.rows is None else self.rows[index]
        return Labelled(names, self.labels[rows], self.pooled[rows], self.tokens, self.valid, at)


def knn(
    train: Labelled, val: Labelled, classes: int, *, k: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> Float[Tensor, "n C"]:
    """Votes of the `k` nearest training samples by cosine similarity, each weighted by exp(cosine / temperature)."""
    keys, k = F.normalize(train.pooled, dim=1), min(k, len(train))
    scores = torch.zeros(len(val), classes)
    for start in range(0, len(val), _BLOCK):
        rows = slice(start, start + _BLOCK)
        cosine, nearest = (F.normalize(val.pooled[rows], dim=1) @ keys.T).topk(k, dim=1)
        # Relative to the nearest, so that no weight overflows float32.
        scores[rows].scatter_add_(1, train.labels[nearest], ((cosine - cosine[:, :1]) / temperature).exp())
    return scores


class Linear:
    """Multinomial logistic regression on standardised features: mean cross-entropy + decay / 2 · |W|², by L-BFGS."""

    def __init__(self, train: Labelled, classes: int, decay: float, start: Linear | None = None) -> None:
        x = train.pooled.double()
        deviation = x.std(0, unbiased=False)
        # A lower bound, so that features with little variance among few samples are not amplified.
        least = 0.05 * deviation.square().mean().sqrt().clamp(min=1e-6)
        self.weight: Tensor
        self.bias: Tensor
        self.mean, self.scale = x.mean(0), deviation.clamp(min=float(least))
        x = (x - self.mean) / self.scale
        weight = torch.zeros(classes, x.shape[1], dtype=x.dtype) if start is None else start.weight.clone()
        bias = torch.zeros(classes, dtype=x.dtype) if start is None else start.bias.clone()
        optimiser = torch.optim.LBFGS(
            [weight.requires_grad_(), bias.requires_grad_()],
            max_iter=200,
            tolerance_grad=1e-6,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = F.cross_entropy(x @ weight.T + bias, train.labels) + decay / 2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimiser.step(closure)
        self.weight, self.bias = weight.detach(), bias.detach()

    def scores(self, samples: Labelled) -> Float[Tensor, "n C"]:
        x = (samples.pooled.double() - self.mean) / self.scale
        return (x @ self.weight.T + self.bias).float()


def few_shot(train: Labelled, val: Labelled, classes: int, shots: int, *, seed: int) -> Float[Tensor, "n C"]:
    """A linear probe of `shots` samples per class, drawn with `seed`."""
    return Linear(train.at(drawn(train.labels, classes, shots, seed)), classes, FEW_SHOT_DECAY).scores(val)


def drawn(labels: Tensor, classes: int, shots: int, seed: int) -> Int[Tensor, " rows"]:
    """Rows of `shots` samples of each class."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == c][:shots] for c in range(classes)])


def linear(train: Labelled, val: Labelled, classes: int, *, seed: int) -> tuple[Float[Tensor, "n C"], dict[str, Any]]:
    """The linear probe, fitted to all training samples with the weight decay that performs best on a held-out part of
    them."""
    decay = _chosen(train, classes, seed, WEIGHT_DECAYS, _linear_sweep)
    return Linear(train, classes, decay).scores(val), {"weight_decay": decay}


def _linear_sweep(fit: Labelled, held_out: Labelled, classes: int) -> list[Tensor]:
    scores, last = list[Tensor](), None
    for decay in WEIGHT_DECAYS:  # from strong to weak, each warm-started from the previous one
        last = Linear(fit, classes, decay, start=last)
        scores.append(last.scores(held_out))
    return scores


class Attentive(nn.Module):
    """Attentive pooling and a linear classifier."""

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.pool, self.head = AttentivePooling(width, heads), nn.Linear(width, classes)

    def forward(self, x_BND: Tensor, valid_BN: Tensor) -> Tensor:
        return self.head(self.pool(x_BND, valid_BN))


def attentive(
    train: Labelled,
    val: Labelled,
    classes: int,
    *,
    heads: int,
    epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, "n C"], dict[str, Any]]:
    """The attentive probe, trained by AdamW with a cosine schedule on all training samples, with the weight decay that
    performs best on a held-out part of them."""

    def fitted(samples: Labelled, decay: float) -> Attentive:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            probe = Attentive(samples.pooled.shape[1], heads, classes).to(device)
            optimiser = torch.optim.AdamW(probe.parameters(), lr=ATTENTIVE_RATE, weight_decay=decay)
            steps = epochs * -(-len(samples) // batch_size)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for _ in range(epochs):
                for drawn_rows in torch.randperm(len(samples), generator=generator).split(batch_size):
                    rows = drawn_rows.sort().values
                    x, valid = _tokens(samples, rows.numpy(), device)
                    optimiser.zero_grad()
                    F.cross_entropy(probe(x, valid), samples.labels[rows].to(device)).backward()
                    optimiser.step()
                    schedule.step()
        return probe

    @torch.no_grad()
    def scores(fit: Labelled, other: Labelled, decay: float) -> Tensor:
        probe = fitted(fit, decay)
        parts = [slice(start, start + batch_size) for start in range(0, len(other), batch_size)]
        return torch.cat([probe(*_tokens(other, rows, device)).cpu() for rows in parts])

    def sweep(fit: Labelled, other: Labelled, _: int) -> list[Tensor]:
        return [scores(fit, other, decay) for decay in ATTENTIVE_DECAYS]

    decay = _chosen(train, classes, seed, ATTENTIVE_DECAYS, sweep)
    return scores(train, val, decay), {"weight_decay": decay, "epochs": epochs, "lr": ATTENTIVE_RATE}


def _tokens(samples: Labelled, rows: Any, device: torch.device | str) -> tuple[Tensor, Tensor]:
    assert samples.tokens is not None
    assert samples.valid is not None
    rows = rows if samples.rows is None else samples.rows[rows]
    x = torch.from_numpy(samples.tokens[rows].astype(np.float32))
    return x.to(device), torch.from_numpy(samples.valid[rows].copy()).to(device)


def _chosen(
    train: Labelled,
    classes: int,
    seed: int,
    values: Sequence[float],
    sweep: Callable[[Labelled, Labelled, int], list[Tensor]],
) -> float:
    """The value with the highest accuracy on a held-out part of the training samples; ties are broken by the lowest
    cross-entropy. Validation samples are not used."""
    held = held_out(train.labels, classes, HELD_OUT, seed)
    fit, other = train.at((~held).nonzero()[:, 0]), train.at(held.nonzero()[:, 0])
    if not len(other) or not len(fit):
        return values[len(values) // 2]
    scores = sweep(fit, other, classes)
    ranks = [(accuracy(s, other.labels), -float(F.cross_entropy(s, other.labels))) for s in scores]
    return values[max(range(len(values)), key=ranks.__getitem__)]


def held_out(labels: Tensor, classes: int, share: float, seed: int) -> Bool[Tensor, " n"]:
    """A random part of each class: at least one sample of every class that has two."""
    generator, held = torch.Generator().manual_seed(seed), torch.zeros(len(labels), dtype=torch.bool)
    order = torch.randperm(len(labels), generator=generator)
    for c in range(classes):
        rows = order[labels[order] == c]
        count = max(1, round(share * len(rows))) if len(rows) > 1 else 0
        held[rows[:count]] = True
    return held


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Fraction of the samples whose class is among the `top` largest scores."""
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(1).float().mean())


def mean_class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Mean accuracy over the classes that occur."""
    right = (scores.argmax(1) == labels).float()
    return float(torch.stack([right[labels == c].mean() for c in labels.unique()]).mean())

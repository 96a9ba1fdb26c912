"""Reconstruction losses: terms for feature maps, class maps and feature vectors.

Each takes a reconstruction and its target and returns a number per position (a pixel, a vector), to be summed where the
target is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from fourm_plugins.spec import ClassMap, ModalitySpec

LossName = Literal["mse", "l1", "smooth_l1", "cosine", "cross_entropy"]
SMOOTH_L1_BETA = 0.1


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    # Like `F.cosine_similarity` with eps 1e-6, whose norms over any but the last axis take ten times as long on a CPU.
    lengths = x.square().sum(1).clamp(min=1e-12) * y.square().sum(1).clamp(min=1e-12)
    return 1 - (x * y).sum(1) * lengths.rsqrt()


#: Reconstruction, target (B, C, …) -> (B, …).
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda x, y: F.mse_loss(x, y, reduction="none").mean(1),
    "l1": lambda x, y: F.l1_loss(x, y, reduction="none").mean(1),
    "smooth_l1": lambda x, y: F.smooth_l1_loss(x, y, reduction="none", beta=SMOOTH_L1_BETA).mean(1),
    "cosine": _cosine,
}


def loss_weights(loss: Mapping[LossName, float] | None, spec: ModalitySpec) -> dict[str, float]:
    """Terms of the reconstruction loss for a spec's arrays; by default (None) cross_entropy for class maps, mse for
    others. Raises ValueError for terms that do not apply."""
    classes = isinstance(spec.array, ClassMap)
    if loss is None:
        return {"cross_entropy": 1.0} if classes else {"mse": 1.0}
    unfit = [name for name in loss if (name == "cross_entropy") != classes]
    if unfit:
        fit = "cross_entropy" if classes else ", ".join(LOSSES)
        raise ValueError(f"{spec.name}: loss {unfit[0]!r} does not fit its {spec.array.kind}; choose from {fit}")
    return {str(name): weight for name, weight in loss.items()}

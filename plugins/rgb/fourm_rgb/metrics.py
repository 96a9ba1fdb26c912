"""Metrics of pictures in addition to those of all picture-like modalities.

In: equally long lists of pictures uint8 (H, W, 3), predicted and true. SSIM is the mean over pictures; the Fréchet
distance compares two sets of pictures, in the features of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from fourm_plugins import Metric
from fourm_plugins.counting import counted
from fourm_plugins.extras import optional
from fourm_plugins.labelling import NetworkOptions, PictureNetwork

Pictures = Sequence[np.ndarray]

#: With fewer pictures a covariance of features is too uncertain for a Fréchet distance to mean anything.
FRECHET_SAMPLES = 2048
_SIGMA, _RADIUS = 1.5, 5  # pixels: the Gaussian window of SSIM, 11 wide
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(predictions: Pictures, truths: Pictures) -> float:
    """Mean structural similarity (Wang et al. 2004, "Image quality assessment: from error visibility to structural
    similarity", eq. 13), with its Gaussian window of 11 pixels, over all positions of the window within the picture,
    and over the colours. A smaller picture gets the largest window that fits."""
    return float(np.mean([_ssim(p, t) for p, t in zip(predictions, truths, strict=True)]))


def _ssim(p_HWC: np.ndarray, t_HWC: np.ndarray) -> float:
    # Written out, since torchmetrics takes seconds to import (matplotlib, scipy.signal, transformers).
    radius = min(_RADIUS, (min(p_HWC.shape[:2]) - 1) // 2)
    sigma = _SIGMA if radius == _RADIUS else max(radius, 0.1) / 3.5
    window = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    window /= window.sum()

    def mean(x: np.ndarray) -> np.ndarray:
        """Weighted by the window, at each of its positions within the picture."""
        for axis in (0, 1):
            x = np.lib.stride_tricks.sliding_window_view(x, len(window), axis) @ window
        return x

    p, t = p_HWC.astype(np.float64), t_HWC.astype(np.float64)
    mean_p, mean_t = mean(p), mean(t)
    variances, covariance = mean(p * p + t * t) - mean_p**2 - mean_t**2, mean(p * t) - mean_p * mean_t
    likeness = (2 * mean_p * mean_t + _C1) * (2 * covariance + _C2)
    return float((likeness / ((mean_p**2 + mean_t**2 + _C1) * (variances + _C2))).mean())


def frechet_distance(model: str) -> Metric:
    """The Fréchet distance between predicted and true pictures in the features of `model`, a vision network of
    `transformers` by folder or Hub id: the spatial mean of its last hidden states. With Inception's features it is FID
    (Heusel et al. 2017); with others its numbers compare only with those of the same network.

    Raises ValueError, one line: what is not installed, or why the model cannot be used."""
    import torch

    fid = optional("torchmetrics.image.fid", what="the Fréchet distance needs", install="fourm-rgb[fid]")
    net = PictureNetwork(
        model,
        ["AutoModel"],
        what="a vision network",
        install="fourm-rgb[fid]",
        options=NetworkOptions(),
        spare=("pooler",),
    )

    class Features(torch.nn.Module):
        """In place of the library's network: the features are already computed."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.num_features = number

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def features(pictures: Pictures) -> torch.Tensor:
        def compute(inputs: dict, sizes: list) -> list:
            hidden = net.network(**inputs).last_hidden_state  # (B, N, C), or (B, C, h, w) of a convolutional network
            return list((hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))).cpu())

        return torch.stack(net.run(pictures, compute))

    def distance(predictions: Pictures, truths: Pictures) -> float:
        fake, real = features(predictions), features(truths)
        if len(real) <= real.shape[1]:
            raise ValueError(
                f"{counted(len(real), 'sample')} for {real.shape[1]} features; there must be more than features"
            )
        metric = fid.FrechetInceptionDistance(feature=Features(real.shape[1]))
        metric.update(real, real=True)
        metric.update(fake, real=False)
        return float(metric.compute())

    return Metric(f"Fréchet distance, {PurePath(model).name}", distance, False, min_samples=FRECHET_SAMPLES)

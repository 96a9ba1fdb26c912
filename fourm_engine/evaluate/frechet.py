"""The Fréchet distance between predicted and true values, in the features of a trained model's encoder.

In: a model, and values of a grid that it takes as input: pictures, depth, class maps. Out: a `Metric`. Unlike the
metrics of single samples, it shows lost variety: predictions that all equal the mean of the truths score 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.model import FourM
from fourm_plugins.counting import counted
from fourm_plugins.modality import Metric

if TYPE_CHECKING:
    from jaxtyping import Float

#: Principal components of the features, at most, and samples for each of them.
DIMENSIONS, SAMPLES_PER_DIMENSION = 8, 5
#: Samples per forward pass.
BATCH = 32


class EncoderFrechet:
    """The distance to the distribution of true values: |μ − μ'|² + tr(C + C' − 2 (C C')^½) (Heusel et al. 2017, eq. 6)
    over tr C. 0: the same distribution; 1: the mean of the truths, always.

    Features are means over the encoder's tokens, in the principal components of those of the truths: `dimensions`, by
    default 8, and fewer for less than 40 samples."""

    def __init__(self, model: FourM, name: str, *, dimensions: int | None = None) -> None:
        self.model, self.name, self.dimensions = model, name, dimensions
        self._truths: list[Any] = []
        self._mean = self._basis = self._truth = np.zeros(0)

    def features(self, values: Sequence[Any]) -> Float[np.ndarray, "n D"]:
        """float64 (n, D): the mean over the tokens of each value."""
        rows = []
        for start in range(0, len(values), BATCH):
            x_BND, valid_BN = self.model.encode([{self.name: value} for value in values[start : start + BATCH]])
            weight_BN1 = valid_BN[..., None].to(x_BND.dtype)
            x_BND = x_BND.masked_fill(weight_BN1 == 0, 0)  # features of padding may be anything
            rows.append((x_BND.sum(1) / weight_BN1.sum(1)).double().cpu().numpy())
        return np.concatenate(rows)

    def __call__(self, predictions: Sequence[Any], truths: Sequence[Any]) -> float:
        """Raises ValueError if the truths are too few, or all the same."""
        self._fit(truths)
        made = (self.features(predictions) - self._mean) @ self._basis
        true_cov, made_cov = np.atleast_2d(np.cov(self._truth.T)), np.atleast_2d(np.cov(made.T))
        roots = np.sqrt(np.maximum(np.linalg.eigvals(true_cov @ made_cov).real, 0)).sum()
        shift = np.square(self._truth.mean(0) - made.mean(0)).sum()
        return float((shift + np.trace(true_cov) + np.trace(made_cov) - 2 * roots) / np.trace(true_cov))

    def _fit(self, truths: Sequence[Any]) -> None:
        """The principal components of the truths; those of the last call are kept."""
        if len(truths) == len(self._truths) and all(a is b for a, b in zip(truths, self._truths, strict=True)):
            return
        dimensions = self.dimensions or min(DIMENSIONS, len(truths) // SAMPLES_PER_DIMENSION)
        if not dimensions:
            few = counted(len(truths), "sample is", "samples are")
            raise ValueError(f"{few} too few, at least {SAMPLES_PER_DIMENSION} are needed")
        features = self.features(truths)
        mean = features.mean(0)
        _, scales, directions = np.linalg.svd(features - mean, full_matrices=False)
        if scales[0] <= 1e-6 * len(truths) ** 0.5 * float(np.abs(mean).max()):  # features are computed in float32
            raise ValueError("all true values have the same features")
        self._truths, self._mean, self._basis = list(truths), mean, directions[:dimensions].T
        self._truth = (features - mean) @ self._basis


def encoder_metrics(source: Path, model: FourM, targets: Sequence[str]) -> Mapping[str, tuple[Metric, ...]]:
    """Target -> the Fréchet distance in the features of `model`'s encoder, loaded from `source`; for the grids that
    this encoder takes."""
    metrics = {}
    for name in targets:
        try:
            spec = model.reader.instance(name, raw=True).spec
        except ValueError:  # the model does not have it
            continue
        if spec.input and spec.layout.kind == "grid":
            title = f"Fréchet, {source.name}"
            metrics[name] = (Metric(title, EncoderFrechet(model, name), False, min_samples=2 * SAMPLES_PER_DIMENSION),)
    return metrics

"""Measures how much several samples of one input differ, compared with the truths of different inputs.

In: k predictions for each of n inputs, in k lists, and the truths. Out: a `Diversity` in the modality's metrics and,
given features, the effective number of distinct samples among k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.evaluate.results import Diversity, Spread
from fourm_plugins.modality import Metric

if TYPE_CHECKING:
    from jaxtyping import Float

Measure = Callable[[Metric, Sequence[Any], Sequence[Any]], float | None]


def diversity(
    draws: Sequence[Sequence[Any]],
    truths: Sequence[Any] | None,
    metrics: Sequence[Metric],
    measure: Measure,
    features: Callable[[Sequence[Any]], Float[np.ndarray, "n D"]] | None = None,
) -> Diversity:
    """`truths`: those of the same inputs, None where unknown. `measure`: a metric of two lists; None if it cannot be
    computed."""
    spreads = []
    for metric in metrics:
        among = [measure(metric, draws[i], draws[j]) for i, j in combinations(range(len(draws)), 2)]
        errors = [] if truths is None else [measure(metric, values, truths) for values in draws]
        apart = None if truths is None or len(truths) < 2 else measure(metric, [*truths[1:], truths[0]], truths)
        spreads.append(Spread(metric.name, metric.unit, metric.higher_is_better, _mean(among), _mean(errors), apart))
    distinct = None
    if features is not None:
        rows = np.stack([features(values) for values in draws], axis=1)  # (n, k, D)
        distinct = float(np.mean([effective_number(row) for row in rows]))
    return Diversity(len(draws), len(draws[0]), spreads, distinct)


def effective_number(features: Float[np.ndarray, "k D"]) -> float:
    """The Vendi score (arXiv 2210.02410) of unit vectors: 1 if all are equal, k if all are orthogonal."""
    shares = np.linalg.eigvalsh(features @ features.T / len(features))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

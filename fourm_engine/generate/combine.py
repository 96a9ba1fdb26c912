"""Combines several samples of one input: mean, median or vote, with their spread, or the best sample by a scorer.

In: one `Results` per sample. Out: one `Results`, which keeps them as `samples`. `calibration` measures how well their
spread predicts the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fourm_engine.generate.result import Generated, Results
from fourm_plugins import calls
from fourm_plugins.counting import counted, decimals
from fourm_plugins.modality import Modality
from fourm_plugins.reductions import How

#: "mean" for all targets, or one for each, {target: "mean"}.
Reduce = str | Mapping[str, str]
Scorer = Callable[[Results], float]


def reductions_of(reduce: Reduce | None, targets: Sequence[str], modalities: Mapping[str, Modality]) -> dict[str, How]:
    """Target -> reduction. Raises ValueError for a reduction that the target's modality does not support."""
    if reduce is None:
        return {}
    if not isinstance(reduce, (str, Mapping)):
        raise ValueError(f"reduce is 'mean', 'median' or 'vote', or {{target: one of them}}; given: {reduce!r:.80}")
    ways = dict.fromkeys(targets, reduce) if isinstance(reduce, str) else dict(reduce)
    for target, how in ways.items():
        if target not in targets:
            raise ValueError(f"reduce: {target!r} is not a target; targets: {', '.join(targets)}")
        possible = modalities[target].reductions
        if how not in possible:
            hint = f"; for several targets: reduce={{{target!r}: {possible[0]!r}}}" if len(targets) > 1 else ""
            raise ValueError(f"reduce={how!r:.80} does not apply to {target!r}; choose {' or '.join(possible)}{hint}")
    return cast("dict[str, How]", ways)


def check_combining(n_samples: int, reduce: Reduce | None, best: Scorer | None) -> None:
    """Raise ValueError for a combination of settings in which one has no effect."""
    name = "reduce" if reduce is not None else "best"
    if (reduce is not None or best is not None) and n_samples == 1:
        raise ValueError(f"{name} has no effect on one sample; raise n_samples, or leave it out")
    if reduce is not None and best is not None:
        raise ValueError("reduce and best are alternatives; leave one out")
    if best is not None and not callable(best):
        raise ValueError(f"best is a function that scores the results of a sample; given: {best!r:.80}")


def combine(samples: Sequence[Results], reduce: Mapping[str, How], best: Scorer | None) -> Results:
    """Combine the samples into one `Results`. A target without a reduction takes its value from the first sample, or
    from the one with the highest score."""
    scores = [] if best is None else [_score(best, sample) for sample in samples]
    chosen = samples[int(np.argmax(scores))] if scores else samples[0]
    made = {
        name: reduce_samples([s[name] for s in samples], reduce[name]) if name in reduce else result
        for name, result in chosen.items()
    }
    return Results(made, samples=samples, scores=scores)


def reduce_samples(samples: Sequence[Generated], how: How) -> Generated:
    """The mean, median or vote of the values, with its spread; `tokens` are those of the sample nearest to it."""
    modality, values = samples[0].modality, [sample.value for sample in samples]
    value = calls.reduce(modality, values, how)
    distances = [_mean(calls.spread(modality, [sample, value])) for sample in values]
    nearest = samples[int(np.argmin(distances))]
    return Generated(modality, nearest.tokens, value, how, nearest.given, calls.spread(modality, values))


def _score(best: Scorer, sample: Results) -> float:
    score = best(sample)
    try:
        number = float(score)
    except (TypeError, ValueError):
        raise ValueError(f"best: the scorer returns {score!r:.80}, not a number") from None
    if np.isnan(number):
        raise ValueError("best: the scorer returns NaN; return a number, higher is better")
    return number


def numbers(spread: Any) -> np.ndarray:
    """A spread as float64 (n,)."""
    parts = list(spread.values()) if isinstance(spread, Mapping) else spread
    return np.asarray(parts, np.float64).reshape(-1)


def _mean(spread: Any) -> float:
    known = numbers(spread)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else 0.0


@dataclass(frozen=True)
class Calibration:
    """`correlation`: Spearman's rank correlation of spread and error over all `elements`, in [-1, 1]: 1 if both rank
    them alike, 0 if the spread carries no information. `spread` and `error`: their means in groups of equal size, by
    increasing spread, in the units of the value (fractions for classes and texts)."""

    correlation: float
    spread: tuple[float, ...]
    error: tuple[float, ...]
    elements: int

    def __repr__(self) -> str:
        rows = "  ".join(f"{s:.3g}→{e:.3g}" for s, e in zip(self.spread, self.error, strict=True))
        correlation, elements = decimals(self.correlation, 2), counted(self.elements, "element")
        return f"<Calibration: rank correlation {correlation}, {elements}; {rows}>"


def calibration(generated: Generated | Sequence[Generated], truth: Any, *, groups: int = 10) -> Calibration:
    """Measure how well the spread of samples predicts the error of their reduction.

    Args:
        generated: results of `reduce`, for one input or several.
        truth: the true value, in the size and units of the result, or a list with one value per result.
        groups: number of groups of equal size in which spread and error are averaged; at most one per element.

    Returns a `Calibration`: the rank correlation of spread and error, and their means by group. Elements (pixels,
    numbers) whose spread or truth is not finite are ignored. Raises ValueError for results without a spread, for truths
    that differ in number or size, and if no element remains."""
    results, truths = ([generated], [truth]) if isinstance(generated, Generated) else (list(generated), list(truth))
    if not results or len(results) != len(truths):
        raise ValueError(f"calibration: {counted(len(results), 'result')}, but {counted(len(truths), 'truth')}")
    pairs = [_spread_and_error(result, true) for result, true in zip(results, truths, strict=True)]
    spread_N, error_N = (np.concatenate(column) for column in zip(*pairs, strict=True))
    known_N = np.isfinite(spread_N) & np.isfinite(error_N)
    spread_N, error_N = spread_N[known_N], error_N[known_N]
    groups = min(groups, len(spread_N))
    if groups < 1:
        raise ValueError("calibration: no element has both a spread and a truth")
    parts = np.array_split(np.argsort(spread_N, kind="stable"), groups)
    return Calibration(
        _correlation(_ranks(spread_N), _ranks(error_N)),
        tuple(float(spread_N[part].mean()) for part in parts),
        tuple(float(error_N[part].mean()) for part in parts),
        len(spread_N),
    )


def _spread_and_error(result: Generated, true: Any) -> tuple[np.ndarray, np.ndarray]:
    """Per element of one result."""
    if result.spread is None:
        raise ValueError(f"{result.modality.name!r} has no spread; generate it with n_samples and reduce")
    shapes = [getattr(value, "shape", None) for value in (true, result.value)]
    if shapes[0] is not None and shapes[1] is not None and tuple(shapes[0]) != tuple(shapes[1]):
        raise ValueError(
            f"{result.modality.name!r}: the truth is of shape {tuple(shapes[0])}, the result of {tuple(shapes[1])}; "
            f"resize one of them"
        )
    try:
        error_N = numbers(result.modality.spread([result.value, true])) * 2
    except (ValueError, TypeError) as why:
        raise ValueError(f"{result.modality.name!r}: the truth does not fit the result: {why}") from None
    spread_N = numbers(result.spread)
    if len(error_N) != len(spread_N):
        raise ValueError(
            f"{result.modality.name!r}: the truth has {counted(len(error_N), 'element')}, the result {len(spread_N)}"
        )
    return spread_N, error_N


def _ranks(x_N: np.ndarray) -> np.ndarray:
    """Ranks; ties get their mean rank."""
    _, inverse, counts = np.unique(x_N, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts + 1) / 2)[inverse]


def _correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    a, b = a_N - a_N.mean(), b_N - b_N.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0

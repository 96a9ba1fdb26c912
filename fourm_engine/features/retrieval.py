"""Retrieval of the samples of one index from another: recall and nDCG, compared with chance.

In: an index of queries and an index to search, from the same model, with common samples; optionally classes. Out:
scores. The right answers to a query are the features of the sample of the same name in the other index, several for one
of several captions; with classes, those of every other sample of its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.features.index import Index, unit

if TYPE_CHECKING:
    from jaxtyping import Float, Int

RECALL_AT = (1, 5, 10)
_BLOCK = 256


@dataclass(frozen=True)
class Scores:
    """`recall`: k -> fraction of the queries with a right answer among the first k. `ndcg`: mean normalised discounted
    cumulative gain of the whole ranking, with gain 1 per right answer."""

    recall: dict[int, float]
    ndcg: float


@dataclass(frozen=True)
class RetrievalMetrics:
    """`centred`: after subtracting each index's mean, which removes a constant offset between modalities. `chance`: the
    exact expectation of a random ranking."""

    queries: int
    candidates: int
    plain: Scores
    centred: Scores
    chance: Scores

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(queries: Index, index: Index, labels: Mapping[str, str] | None = None) -> RetrievalMetrics:
    """Scores of retrieving the samples of `queries` from `index`. Raises ValueError for indexes of different models, of
    the same features (every sample would find itself), and without common samples or classes."""
    if queries.fingerprint != index.fingerprint or queries.features.shape[1] != index.features.shape[1]:
        raise ValueError("--evaluate: the indexes are of different models; make both with one model: `fourm embed`")
    if labels is None and sorted(queries.inputs) == sorted(index.inputs):
        raise ValueError(
            f"--evaluate: both indexes are of {', '.join(index.inputs)}, and every sample finds itself; give one of "
            "other inputs, or --labels"
        )
    x, y = queries.read(), index.read()
    answers = _Answers.of(queries.names, index.names, labels)
    if not len(answers.rows):
        what = "sample" if labels is None else "class with another sample"
        raise ValueError(f"--evaluate: the indexes have no {what} in common; make both of one data set")
    plain = _measured(x[answers.rows], y, answers)
    centred = _measured(x[answers.rows] - x.mean(0), y - y.mean(0), answers)
    return RetrievalMetrics(len(answers.rows), len(index.names), plain, centred, _chance(answers))


@dataclass(frozen=True, eq=False)
class _Answers:
    """The right candidates for the queries `rows` that have any: those with the same number (of a name or class),
    except, for classes, those of the query's own sample."""

    rows: Int[np.ndarray, " q"]
    counts: Int[np.ndarray, " q"]  # right answers
    among: Int[np.ndarray, " q"]  # candidates
    wanted: Int[np.ndarray, " q"]
    numbers: Int[np.ndarray, " n"]
    themselves: tuple[Int[np.ndarray, " q"], Int[np.ndarray, " n"]] | None

    @classmethod
    def of(cls, queries: Sequence[str], candidates: Sequence[str], labels: Mapping[str, str] | None) -> _Answers:
        at = {name: i for i, name in enumerate(dict.fromkeys([*queries, *candidates]))}
        names = tuple(np.array([at[name] for name in side], np.int64) for side in (queries, candidates))
        same = np.bincount(names[1], minlength=len(at))[names[0]]  # candidates of the query's sample
        if labels is None:
            rows = same.nonzero()[0]
            return cls(rows, same[rows], np.full(len(rows), len(candidates)), names[0][rows], names[1], None)
        known = {label: i for i, label in enumerate(dict.fromkeys(labels.values()))}
        # -1: without a class.
        wanted = np.array([known.get(labels.get(name, ""), -1) for name in queries], np.int64)
        numbers = np.array([known.get(labels.get(name, ""), -2) for name in candidates], np.int64)
        number, count = np.unique(numbers, return_counts=True)
        among = dict(zip(number.tolist(), count.tolist()))
        counts = np.array([among.get(label, 0) for label in wanted.tolist()], np.int64)
        counts -= np.where(counts > 0, same, 0)
        rows = counts.nonzero()[0]
        others = len(candidates) - same[rows]
        return cls(rows, counts[rows], others, wanted[rows], numbers, (names[0][rows], names[1]))

    def themselves_among(self, rows: slice, order: np.ndarray) -> np.ndarray | None:
        return None if self.themselves is None else self.themselves[0][rows, None] == self.themselves[1][order]


def _measured(x: Float[np.ndarray, "q D"], y: Float[np.ndarray, "n D"], answers: _Answers) -> Scores:
    # Ties are broken at random, so that equal features score at chance.
    order = np.random.default_rng(0).permutation(len(y))
    y, discount = unit(y)[order], 1 / np.log2(np.arange(len(y)) + 2)
    ideal = discount.cumsum()[answers.counts - 1]
    hits, gains = np.zeros((len(x), len(RECALL_AT)), bool), np.zeros(len(x))
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores, right = unit(x[rows]) @ y.T, answers.wanted[rows, None] == answers.numbers[order]
        if (itself := answers.themselves_among(rows, order)) is not None:
            scores[itself], right = -np.inf, right & ~itself
        right = np.take_along_axis(right, np.argsort(-scores, axis=1, kind="stable"), axis=1)
        hits[rows] = np.stack([right[:, :k].any(1) for k in RECALL_AT], axis=1)
        gains[rows] = (right * discount).sum(1) / ideal[rows]
    return Scores({k: float(hits[:, i].mean()) for i, k in enumerate(RECALL_AT)}, float(gains.mean()))


def _chance(answers: _Answers) -> Scores:
    """The expectation over all rankings."""
    n, counts, recall = answers.among, answers.counts, {}
    for k in RECALL_AT:
        missed = np.ones(len(counts))  # probability that none of the first k is right, drawn without replacement
        for i in range(k):
            missed *= 1 - np.minimum(1, counts / np.maximum(1, n - i))
        recall[k] = float(1 - missed.mean())
    gains = (1 / np.log2(np.arange(n.max()) + 2)).cumsum()
    return Scores(recall, float((counts / n * gains[n - 1] / gains[counts - 1]).mean()))

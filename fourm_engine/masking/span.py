"""SpanMasker: sequences. Each masked run becomes one sentinel in the input; the target lists each sentinel followed by
its run, and closes with the next sentinel (T5, arXiv 1910.10683, as used by 4M, arXiv 2312.06647, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from fourm_engine.masking.noise import keys_of, noise, uniform
from fourm_engine.masking.rows import MaskedRows, ragged
from fourm_plugins.masker import Masked, Masker, SpecialTokens
from fourm_plugins.spec import ModalitySpec

#: Factor by which the probability of keeping a token is reduced each time the input is too long.
KEEP_DECAY = 0.9
#: Random numbers drawn at once.
BLOCK = 1 << 17


class SpanMasker(Masker):
    """Raises ValueError if the tokenizer has fewer sentinels than the longest sequence may need."""

    def __init__(self, spec: ModalitySpec, special_tokens: SpecialTokens | None = None) -> None:
        super().__init__(spec, special_tokens)
        if special_tokens is None:
            raise ValueError(f"{spec.name}: masking spans needs the end id and the sentinels of a text tokenizer")
        needed = (spec.layout.num_tokens + 1) // 2 + 2  # the one left out, a run at every other token, the closing one
        if len(special_tokens.sentinel_ids) < needed:
            raise ValueError(
                f"{spec.name}: {len(special_tokens.sentinel_ids)} sentinels, but sequences of {spec.layout.num_tokens} "
                f"tokens may need {needed}; lower max_tokens or give the tokenizer more sentinels"
            )
        self.end, self.sentinels = special_tokens.end_id, np.array(special_tokens.sentinel_ids[1:], np.int64)
        self.most = spec.layout.num_tokens

    def mask(self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: Generator) -> Masked:
        """A sequence longer than `max_tokens`, including its end marker, is truncated and loses the end marker."""
        budgets = np.array([input_budget]), np.array([target_budget])
        return mask_sequences([ids], [self], *budgets, [keep], keys_of(rng)).only()


def mask_sequences(
    ids: Sequence[np.ndarray],
    maskers: Sequence[SpanMasker],
    inputs: np.ndarray,
    targets: np.ndarray,
    keep: Sequence[str],
    keys: np.ndarray,
) -> MaskedRows:
    """Mask R sequences, each with its masker, keep scheme, budgets (R,) and stream `keys`, uint64 (R,). All maskers
    share the special ids of the first; their `max_tokens` may differ."""
    end, sentinels = np.array([maskers[0].end]), maskers[0].sentinels
    most = np.array([masker.most for masker in maskers])
    length = np.minimum([len(x) + 1 for x in ids], most)
    closed = [part for x, n in zip(ids, length.tolist(), strict=True) for part in (x[:n], end[: n - len(x)])]
    tokens_RL = np.zeros((len(ids), length.max()), np.int64)
    tokens_RL[np.arange(tokens_RL.shape[1]) < length[:, None]] = np.concatenate(closed)
    spans = mask_spans(tokens_RL, draw_keeps(length, inputs, keep, keys, most), length, sentinels)
    shows = inputs > 0
    row, pos = ragged(spans.n_inputs)
    used = shows[row]
    first, n_targets = trim(spans, targets, uniform(keys, 1))
    n_targets = np.maximum(n_targets - 1, 0)  # the first id of a target is not predicted
    row, rank = ragged(n_targets)
    at = first[row] + rank
    return MaskedRows(
        np.where(shows, spans.n_inputs, 0),
        np.array((spans.inputs[used], pos[used])),
        n_targets,
        np.array((spans.targets[at], rank, rank, spans.targets[at + 1])),
    )


def draw_keeps(
    length: np.ndarray, budget: np.ndarray, scheme: Sequence[str], keys: np.ndarray, most: np.ndarray
) -> np.ndarray:
    """bool (R, longest): which tokens of R sequences are kept, each independently, with a probability drawn by its
    scheme. If more than `budget` > 0 tokens would be shown, the probability decays and all are redrawn. `most` (R,) is
    each sequence's largest possible length; it determines which numbers of its stream are used, so that nothing depends
    on the other rows."""
    probability = np.where(budget > 0, _keep_probability(scheme, uniform(keys, 0)), 0.0)
    columns, stride = int(length.max()), (most + 1) // 2  # two tokens share 64 random bits
    keep_RL = np.zeros((len(length), columns), np.bool_)
    todo, tried, tries = np.arange(len(length)), 0, 1
    while len(todo):
        # Blocks of tries that fit a cache: most sequences need one try, some up to seventy.
        attempt = tried + np.arange(tries)
        below = (probability[todo, None] * KEEP_DECAY**attempt * 2.0**32).astype(np.uint64)
        # Numbers 0 and 1 of each stream are used elsewhere.
        numbers = 2 + (attempt * stride[todo, None])[..., None] + np.arange((columns + 1) // 2)
        bits_RTL = noise(keys[todo, None, None], numbers).view(np.uint32)[..., :columns]
        valid = np.arange(columns) < length[todo, None, None]
        keep = (bits_RTL < below[..., None]) & valid
        # Kept tokens are shown, and the first of each run of others as a sentinel: the first token counts either way.
        shown = 1 + (keep[..., 1:] | (keep[..., :-1] & valid[..., 1:])).sum(2)
        fits = (shown <= budget[todo, None]) | (budget[todo, None] <= 0)
        keep_RL[todo] = keep[np.arange(len(todo)), fits.argmax(1)]
        todo = todo[~fits.any(1)]
        tried += tries
        tries = min(max(BLOCK // max(len(todo) * columns, 1), 4), 64)
    return keep_RL


def _keep_probability(scheme: Sequence[str], u: np.ndarray) -> np.ndarray:
    """Share of each sequence to keep, from uniform u (R,)."""
    unknown = set(scheme) - {"random", "all", "binary"}
    if unknown:
        raise ValueError(f"keep scheme {min(unknown)!r} is unknown; use random, all or binary")
    kind = np.array(scheme)
    return np.where(kind == "random", u, np.where(kind == "all", 1.0, u >= 0.5))


@dataclass(frozen=True)
class Spans:
    """Inputs and targets of R sequences, concatenated row by row, int64."""

    n_inputs: np.ndarray  # (R,)
    inputs: np.ndarray
    length: np.ndarray  # (R,) ids in each target
    targets: np.ndarray
    runs: np.ndarray  # (R,) masked runs; the target has another sentinel, the closing one
    starts: np.ndarray  # indices of the sentinels in `targets`


def mask_spans(tokens: np.ndarray, keep: np.ndarray, length: np.ndarray, sentinels: np.ndarray) -> Spans:
    """Span masking of tokens (R, L) int64, of which the first `length` (R,) are valid, with keep bits (R, L) bool."""
    valid = np.arange(tokens.shape[1]) < length[:, None]
    kept, masked = keep & valid, ~keep & valid
    start = masked.copy()
    start[:, 1:] &= kept[:, :-1]
    run = start.cumsum(1)  # the run, counted from 1, that a masked token belongs to
    runs = start.sum(1)
    shown = tokens.copy()
    shown[start] = sentinels[run[start] - 1]
    is_shown = kept | start
    count = masked.sum(1)
    total = count + runs + 1
    offset = total.cumsum() - total
    row, rank = ragged(count)
    at = offset[row] + rank + run[masked]  # each run adds a sentinel
    targets, is_sentinel = np.empty(total.sum(), np.int64), np.ones(total.sum(), np.bool_)
    targets[at], is_sentinel[at] = tokens[masked], False
    starts = np.flatnonzero(is_sentinel)
    targets[starts] = sentinels[ragged(runs + 1)[1]]
    return Spans(is_shown.sum(1), shown[is_shown], total, targets, runs, starts)


def trim(spans: Spans, budget: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `budget` (R,) ids of each target: their start in `spans.targets`, and their number. They begin with a
    sentinel drawn uniformly by u (R,) in [0, 1), except the closing one; if fewer than `budget` ids would follow, with
    the earliest sentinel after which everything fits."""
    least = np.maximum(budget, 1)
    begin = spans.length.cumsum() - spans.length
    end = begin + spans.length
    sentinels = (spans.runs + 1).cumsum() - spans.runs - 1  # the first in each row among `starts`
    first = spans.starts[sentinels + (u * spans.runs).astype(np.int64)]
    late = spans.starts[np.searchsorted(spans.starts, end - least)]
    first = np.where(end - first < least, late, first)
    first = np.where(spans.length <= least, begin, first)
    return first, np.where(budget > 0, np.minimum(end - first, least), 0)

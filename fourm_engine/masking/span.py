"""SpanMasker: sequences. Each masked run becomes one sentinel in the input; the target lists each sentinel followed by
its run, and closes with the next sentinel (T5, arXiv 1910.10683, as used by 4M, arXiv 2312.06647, section 2.3)."""

from __future__ import annotations

import numpy as np

from fourm_plugins.masker import Masked, Masker, Specials
from fourm_plugins.spec import ModalitySpec

#: Every time the input comes out too long, tokens are kept with this much less probability.
KEEP_DECAY = 0.9


class SpanMasker(Masker):
    """Raises ValueError where the tokenizer has fewer sentinels than the longest sequence may need."""

    def __init__(self, spec: ModalitySpec, specials: Specials | None = None) -> None:
        super().__init__(spec, specials)
        if specials is None:
            raise ValueError(f"{spec.name}: masking spans needs the end id and the sentinels of a text tokenizer")
        needed = (spec.layout.num_tokens + 1) // 2 + 2  # the one left out, a run at every other token, the closing one
        if len(specials.sentinels) < needed:
            raise ValueError(
                f"{spec.name}: {len(specials.sentinels)} sentinels, but sequences of {spec.layout.num_tokens} tokens "
                f"may need {needed}; lower max_tokens or give the tokenizer more sentinels"
            )
        self._end = specials.end
        self._sentinels = np.array(specials.sentinels[1:], np.int64)

    def mask(
        self, ids: np.ndarray, *, input_budget: int, target_budget: int, keep: str, rng: np.random.Generator
    ) -> Masked:
        """A sequence longer than `max_tokens`, its end marker included, is cut there, and then has no end marker."""
        ids = np.append(ids, self._end)[: self.spec.layout.num_tokens]
        probability = _keep_probability(keep, rng) if input_budget > 0 else 0.0
        keeps = rng.random(len(ids)) < probability
        while input_budget > 0 and _shown_length(keeps) > input_budget:
            probability *= KEEP_DECAY
            keeps = rng.random(len(ids)) < probability
        shown, target, starts = mask_spans(ids, keeps, self._sentinels)
        if input_budget <= 0:
            shown = shown[:0]
        target = trim_target(target, starts, target_budget, rng)
        rank = np.arange(max(len(target) - 1, 0))
        return Masked(
            input_ids=shown,
            input_pos=np.arange(len(shown)),
            target_ids=target[:-1],
            target_pos=rank,
            target_order=rank,
            labels=target[1:],
        )


def _keep_probability(scheme: str, rng: np.random.Generator) -> float:
    if scheme == "random":
        return float(rng.random())
    if scheme == "all":
        return 1.0
    if scheme == "binary":
        return float(rng.integers(2))
    raise ValueError(f"keep scheme {scheme!r} is unknown; use random, all or binary")


def _shown_length(keep: np.ndarray) -> int:
    """Tokens kept, and a sentinel for each run of others."""
    return np.count_nonzero(keep) + np.count_nonzero(keep[:-1] > keep[1:]) + (not keep[0])


def mask_spans(ids: np.ndarray, keep: np.ndarray, sentinels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Span masking of ids (n,) with keep bits (n,) bool.

    Returns the input, the target, and where in the target its sentinels stand, the closing one last."""
    masked = ~keep
    start = masked.copy()
    start[1:] &= keep[:-1]
    run = np.cumsum(start)  # number of the run, from 1, that a masked token belongs to
    shown = np.where(keep, ids, sentinels[run - 1])[keep | start]
    at = np.arange(np.count_nonzero(masked)) + run[masked]  # place in the target: one sentinel more with every run
    runs = int(run[-1]) if len(run) else 0
    target = np.empty(len(at) + runs + 1, np.int64)
    starts = np.append(at[start[masked]] - 1, len(target) - 1)
    target[at] = ids[masked]
    target[starts] = sentinels[: runs + 1]
    return shown, target, starts


def trim_target(target: np.ndarray, starts: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """At most `budget` ids of a target, beginning with a sentinel drawn uniformly (the closing one excepted); where
    fewer than `budget` ids follow, it is moved to the earliest sentinel from which all the rest fits."""
    if budget <= 0:
        return target[:0]
    if len(target) <= budget:
        return target
    first = int(starts[rng.integers(len(starts) - 1)])
    if len(target) - first < budget:
        first = int(starts[np.searchsorted(starts, len(target) - budget)])
    return target[first : first + budget]

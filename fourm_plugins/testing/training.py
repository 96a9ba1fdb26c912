"""A tiny model with this modality and a toy: it learns, nothing leaks, and what it generates can be shown."""

from __future__ import annotations

import math

import numpy as np

from fourm_plugins import calls
from fourm_plugins.masker import Masked
from fourm_plugins.spec import Sequence
from fourm_plugins.testing import toys
from fourm_plugins.testing.check import Check, require
from fourm_plugins.testing.masker import ordinary_ids, special_ids
from fourm_plugins.testing.subject import Subject

#: The loss must fall below this share of ln V, the loss of guessing.
LEARNT = 0.95
_SAME = 1e-5  # tolerance between numbers computed in the same way


def learns(subject: Subject) -> None:
    """The tokens are learnt: the loss falls below ln V, the loss of guessing one of V ids."""
    losses = subject.model.losses.get(subject.name, ())
    require(losses, "no token was ever a target in training")
    size = subject.tokenizer.size
    late = float(np.mean(losses[-max(1, len(losses) // 5) :]))
    require(
        late < LEARNT * math.log(size),
        f"the loss ends at {late:.2f} nats, ln {size} is {math.log(size):.2f}: nothing in the examples can be learnt",
    )


def gradients_arrive(subject: Subject) -> None:
    """Gradients reach everything that belongs to the modality in the encoder, the decoder and the output."""
    gradients = subject.model.gradients(subject.name)
    for part, norm in gradients.items():
        require(norm > 0 and math.isfinite(norm), f"the {part} of {subject.name} get a gradient of {norm}")


def targets_do_not_leak(subject: Subject) -> None:
    """Changing target tokens changes neither the encoder's output nor any logit that must not know them."""
    if isinstance(subject.spec.layout, Sequence):
        _sequence_does_not_leak(subject)
    else:
        _grid_does_not_leak(subject)


def _grid_does_not_leak(subject: Subject) -> None:
    size, rng = subject.tokenizer.size, np.random.default_rng(0)
    for seed, ids in enumerate(subject.ids[:3]):
        budget = max(1, len(ids) // 3)
        first = _mask(subject, ids, budget, budget, seed)
        other = ids.copy()
        other[first.target_pos] = (ids[first.target_pos] + rng.integers(1, size, len(first.labels))) % size
        second = _mask(subject, other, budget, budget, seed)
        _same_everywhere(subject, first, second, {subject.name: len(first.labels)})


def _sequence_does_not_leak(subject: Subject) -> None:
    ordinary, special = ordinary_ids(subject), special_ids(subject.masker)
    n = min(12, subject.spec.layout.num_tokens - 1, len(ordinary) - 1)
    for seed in range(3):
        ids = np.random.default_rng(seed).permutation(ordinary)[: n + 1]
        ids, spare = ids[:n], ids[n]
        first = _mask(subject, ids, n, 3 * n, seed)
        rows = [row for row, label in enumerate(first.labels.tolist()) if label not in special]
        if not rows:
            continue
        row = rows[len(rows) // 2]
        other = np.where(ids == first.labels[row], spare, ids)
        # Rows up to the one whose target is the changed token must not depend on it; later ones start from it.
        _same_everywhere(subject, first, _mask(subject, other, n, 3 * n, seed), {subject.name: row + 1})


def _same_everywhere(subject: Subject, first: Masked, second: Masked, rows: dict[str, int]) -> None:
    """Check that the encoder's output, the logits of each modality's first `rows`, and all logits of the toy are
    equal."""
    toy = subject.members[1]
    ids = toy.tokenizer.encode(toy.arrays[:1])[0]  # type: ignore[union-attr]
    beside = toy.masker.mask(ids, input_budget=2, target_budget=2, keep="all", rng=np.random.default_rng(0))
    results = [subject.model.forward({subject.name: masked, toy.name: beside}, {}) for masked in (first, second)]
    (context, logits), (other_context, other_logits) = results
    require(
        context.shape == other_context.shape and np.allclose(context, other_context, atol=_SAME),
        "the encoder's output changes with target tokens: the masker shows them",
    )
    require(np.allclose(logits[toy.name], other_logits[toy.name], atol=_SAME), "another modality's logits change")
    upto = rows[subject.name]
    known, changed = logits[subject.name][:upto], other_logits[subject.name][:upto]
    require(
        known.shape == changed.shape and np.allclose(known, changed, atol=_SAME),
        "logits change with the tokens that they predict: target_ids or target_order give them away",
    )


def _mask(subject: Subject, ids: np.ndarray, inputs: int, targets: int, seed: int) -> Masked:
    rng = np.random.default_rng(seed)
    return subject.masker.mask(ids, input_budget=inputs, target_budget=targets, keep="random", rng=rng)


def generated_tokens_decode(subject: Subject) -> None:
    """Generated tokens are in range and decode to a value that can be shown and written."""
    subject.need_answers()
    toy = subject.members[1]
    given = {toys.TOY: toy.tokenizer.encode(toy.arrays[:1])[0]}  # type: ignore[union-attr]
    ids, value = subject.model.generate(subject.name, given, seed=0)
    size = subject.tokenizer.size
    require(not len(ids) or (ids.min() >= 0 and ids.max() < size), f"generated ids outside [0, {size})")
    calls.render(subject.modality, value)
    calls.write(subject.modality, value)


CHECKS: tuple[Check, ...] = (
    Check(learns, claims=("target",)),
    Check(gradients_arrive),
    Check(targets_do_not_leak, claims=("target",)),
    Check(generated_tokens_decode, claims=("target",)),
)

"""The masker, on 300 draws of tokens, budgets and generators: by hypothesis if it is installed, which also shrinks to
the smallest failing case, otherwise in a plain seeded loop."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fourm_plugins.masker import Masked, Masker
from fourm_plugins.spec import Sequence
from fourm_plugins.testing.check import Check, CheckFailed, require
from fourm_plugins.testing.subject import Subject

DRAWS = 300
KEEPS = ("random", "all", "binary")


@dataclass(frozen=True)
class Draw:
    """One call of a masker; `length` is the sample's number of tokens."""

    length: int
    input_budget: int
    target_budget: int
    keep: str
    seed: int


def budgets_are_kept(subject: Subject) -> None:
    """Inputs and targets never exceed their budgets, and arrays that belong together are equally long."""
    _for_all(subject, _budgets)


def inputs_and_targets_are_disjoint(subject: Subject) -> None:
    """No token is both input and target, or occurs twice as either."""
    _for_all(subject, _apart)


def masked_tokens_are_the_source(subject: Subject) -> None:
    """Ids are those at their positions; a sequence's target spans fill the gaps of its input and give the source."""
    _for_all(subject, _true)


def same_generator_same_mask(subject: Subject) -> None:
    """The mask is a function of its arguments and the generator's state, and leaves global generators alone."""
    _for_all(subject, _repeats)


def edge_budgets_are_met(subject: Subject) -> None:
    """A budget of nothing gives nothing, of one at most one token, of everything all tokens."""
    spec, masker = subject.spec, subject.masker
    sequence = isinstance(spec.layout, Sequence)
    n = min(spec.layout.num_tokens - (1 if sequence else 0), len(ordinary_ids(subject)))
    everything = 4 * spec.layout.num_tokens
    ids = _ids(subject, Draw(n, 0, 0, "all", 0))
    wanted = n + (1 if sequence else 0)  # the end marker

    def mask(inputs: int, targets: int, keep: str = "all") -> Masked:
        return masker.mask(ids, input_budget=inputs, target_budget=targets, keep=keep, rng=np.random.default_rng(0))

    for keep in KEEPS:
        nothing = mask(0, 0, keep)
        require(not len(nothing.input_ids) and not len(nothing.labels), f"keep={keep!r}: tokens for budgets of 0")
    inputs = len(mask(everything, 0).input_ids)
    require(inputs == wanted, f"{inputs} of {wanted} tokens are shown for a budget of {everything}, keep='all'")
    require(len(mask(1, 0).input_ids) <= 1, "more than one token is shown for a budget of 1")
    if spec.target:
        targets = len(mask(0, everything).labels)
        require(targets >= wanted, f"{targets} of {wanted} are targets for a budget of {everything}, without inputs")
        require(not len(mask(0, everything).input_ids), "tokens are shown for an input budget of 0")
        require(len(mask(0, 1).labels) <= 1, "more than one token is a target for a budget of 1")


def _budgets(subject: Subject, draw: Draw, ids: np.ndarray, masked: Masked) -> None:
    inputs, targets = len(masked.input_ids), len(masked.labels)
    require(len(masked.input_pos) == inputs, f"{inputs} input ids, but {len(masked.input_pos)} positions")
    lengths = {len(masked.target_ids), len(masked.target_pos), len(masked.target_order), targets}
    require(len(lengths) == 1, f"target ids, positions, orders and labels of lengths {sorted(lengths)}")
    require(inputs <= draw.input_budget, f"{inputs} inputs for a budget of {draw.input_budget}")
    require(targets <= draw.target_budget, f"{targets} targets for a budget of {draw.target_budget}")


def _apart(subject: Subject, draw: Draw, ids: np.ndarray, masked: Masked) -> None:
    message = "a token is input and target, or one of them twice"
    if isinstance(subject.spec.layout, Sequence):
        # The ids of a draw are all different, so that each identifies its token.
        special = special_ids(subject.masker)
        words = [i for i in [*masked.input_ids.tolist(), *masked.labels.tolist()] if i not in special]
        require(len(set(words)) == len(words), message)
        return
    positions = [*masked.input_pos.tolist(), *masked.target_pos.tolist()]
    require(len(set(positions)) == len(positions), message)
    require(not positions or (min(positions) >= 0 and max(positions) < len(ids)), "a position outside the tokens")


def _true(subject: Subject, draw: Draw, ids: np.ndarray, masked: Masked) -> None:
    special_tokens = subject.masker.special_tokens
    if not isinstance(subject.spec.layout, Sequence) or special_tokens is None:
        require(np.array_equal(ids[masked.input_pos], masked.input_ids), "an input id is not the one at its position")
        require(np.array_equal(ids[masked.target_pos], masked.labels), "a label is not the id at its position")
        return
    source = [*ids.tolist(), special_tokens.end_id][: subject.spec.layout.num_tokens]
    target = [*masked.target_ids[:1].tolist(), *masked.labels.tolist()]
    stray = {*masked.input_ids.tolist(), *target} - {*source, *special_tokens.sentinel_ids}
    require(not stray, f"id {min(stray, default=0)} is neither in the source nor a sentinel")
    # Capacity for every token, a sentinel for each and the closing one: nothing may be truncated.
    if draw.input_budget >= len(source) and draw.target_budget >= 2 * len(source) + 2:
        again = _rebuild(masked.input_ids.tolist(), target, set(special_tokens.sentinel_ids))
        require(again == source, "the target's spans, put into the input's gaps, do not give the source")


def _repeats(subject: Subject, draw: Draw, ids: np.ndarray, masked: Masked) -> None:
    drawn_before = int(np.random.get_state(legacy=False)["state"]["pos"])
    again = _mask(subject.masker, draw, ids)
    drawn = int(np.random.get_state(legacy=False)["state"]["pos"]) != drawn_before
    require(not drawn, "masking draws from NumPy's global generator")
    for name, first in vars(masked).items():
        require(np.array_equal(first, getattr(again, name)), f"{name} differs for the same generator")


def _rebuild(shown: list[int], target: list[int], sentinels: set[int]) -> list[int]:
    """Replace every visible sentinel with the ids that follow it in the target."""
    runs: dict[int, list[int]] = {}
    run: list[int] = []
    for i in target:
        if i in sentinels:
            run = runs.setdefault(i, [])
        else:
            run.append(i)
    return [j for i in shown for j in (runs.get(i, []) if i in sentinels else [i])]


Property = Callable[[Subject, Draw, np.ndarray, Masked], None]
_PROPERTIES: tuple[Property, ...] = (_budgets, _apart, _true, _repeats)


def _for_all(subject: Subject, holds: Property) -> None:
    """Raise CheckFailed with a draw for which `holds` raises it. Properties share draws, unless one of them fails."""
    if not subject.once("masks", "", lambda: _all_hold(subject)):
        _draws(subject, (holds,))


def _all_hold(subject: Subject) -> bool:
    try:
        _draws(subject, _PROPERTIES)
    except Exception:  # each check determines which of them it is
        return False
    return True


def _draws(subject: Subject, properties: tuple[Property, ...]) -> None:
    masker, spec = subject.masker, subject.spec
    most = spec.layout.num_tokens
    lengths = (0, min(most - 1, len(ordinary_ids(subject)))) if isinstance(spec.layout, Sequence) else (most, most)
    targets = (0, 3 * most if isinstance(spec.layout, Sequence) else most + 2) if spec.target else (0, 0)

    def try_one(length: int, input_budget: int, target_budget: int, keep: str, seed: int) -> None:
        draw = Draw(length, input_budget, target_budget, keep, seed)
        ids = _ids(subject, draw)
        masked = _mask(masker, draw, ids)
        for holds in properties:
            try:
                holds(subject, draw, ids, masked)
            except CheckFailed as error:
                raise CheckFailed(f"{error}, for {draw}") from None

    if importlib.util.find_spec("hypothesis") is None:
        rng = np.random.default_rng(0)
        for seed in range(DRAWS):
            bounds = (lengths, (0, most + 2), targets)
            length, input_budget, target_budget = (int(rng.integers(low, high + 1)) for low, high in bounds)
            try_one(length, input_budget, target_budget, KEEPS[seed % 3], seed)
        return
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    quiet = settings(
        max_examples=DRAWS,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    numbers_of = [st.integers(*bounds) for bounds in (lengths, (0, most + 2), targets)]
    quiet(given(*numbers_of, st.sampled_from(KEEPS), st.integers(0, 10**6))(try_one))()


def _mask(masker: Masker, draw: Draw, ids: np.ndarray) -> Masked:
    rng = np.random.default_rng(draw.seed)
    return masker.mask(ids, input_budget=draw.input_budget, target_budget=draw.target_budget, keep=draw.keep, rng=rng)


def _ids(subject: Subject, draw: Draw) -> np.ndarray:
    """int64 (length,): distinct ordinary ids of a sequence, any ids of other layouts, positions of continuous input."""
    if subject.spec.continuous:
        return np.arange(draw.length)
    rng = np.random.default_rng(draw.seed)
    if isinstance(subject.spec.layout, Sequence):
        return rng.permutation(ordinary_ids(subject))[: draw.length]
    return rng.integers(0, subject.spec.token_space.size, draw.length)  # type: ignore[union-attr]


def ordinary_ids(subject: Subject) -> np.ndarray:
    """Ids that are neither the end marker nor a sentinel; all ids if there are no special ones."""
    if subject.spec.token_space is None:
        return np.arange(subject.spec.layout.num_tokens)
    ids = np.arange(subject.spec.token_space.size)
    return ids[~np.isin(ids, sorted(special_ids(subject.masker)))]


def special_ids(masker: Masker) -> set[int]:
    return {masker.special_tokens.end_id, *masker.special_tokens.sentinel_ids} if masker.special_tokens else set()


CHECKS: tuple[Check, ...] = (
    Check(budgets_are_kept),
    Check(inputs_and_targets_are_disjoint),
    Check(masked_tokens_are_the_source),
    Check(edge_budgets_are_met),
    Check(same_generator_same_mask),
)

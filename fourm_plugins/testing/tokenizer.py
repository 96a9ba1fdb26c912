"""The tokenizer, by the modality's recipe, fitted on its examples."""

from __future__ import annotations

import numpy as np

from fourm_plugins import calls
from fourm_plugins.arrays import misfit
from fourm_plugins.spec import ClassMap, Sequence, Text
from fourm_plugins.testing.check import Check, require
from fourm_plugins.testing.compare import distance, global_seed, same, spread
from fourm_plugins.testing.subject import Subject


def tokenizer_is_fitted(subject: Subject) -> None:
    """The recipe's tokenizer is installed, accepts the recipe's settings, and can be fitted on the examples."""
    assert subject.tokenizer


def ids_are_in_range(subject: Subject) -> None:
    """`encode` gives an int64 vector per array: `layout.num_tokens` ids (any number for a sequence) in [0, size)."""
    assert subject.ids


def encoding_is_deterministic(subject: Subject) -> None:
    """The same array gives the same ids, whatever the state of global generators."""
    encoded = []
    for seed in (0, 1):
        with global_seed(seed):
            encoded.append(subject.tokenizer.encode(subject.arrays))
    require(_equal(*encoded), "the same arrays give other ids a second time")


def decoded_arrays_fit_the_spec(subject: Subject) -> None:
    """`decode` gives the arrays that the spec describes."""
    for array in subject.decoded:
        wrong = misfit(subject.spec, array)
        require(not wrong, wrong)


def batches_change_nothing(subject: Subject) -> None:
    """An array gives the same ids alone and in any batch, and ids the same array."""
    tokenizer, arrays, ids = subject.tokenizer, subject.arrays, subject.ids
    alone = [tokenizer.encode([array])[0] for array in arrays]
    require(_equal(alone, ids), "an array alone has other ids than in a batch")
    require(_equal(tokenizer.encode(arrays[::-1])[::-1], ids), "in a batch of another order an array has other ids")
    together = subject.decoded
    for row, array in zip(ids, together, strict=True):
        (single,) = tokenizer.decode([row])
        error = distance(single, array)
        require(error <= 1e-4, f"ids decoded alone differ by {error:.3g} from the same in a batch")


def any_ids_decode(subject: Subject) -> None:
    """Any ids in [0, size), and the mean of all codes, decode to a value that can be shown and written."""
    subject.need_answers()
    tokenizer, modality, spec = subject.tokenizer, subject.modality, subject.spec
    rng, size = np.random.default_rng(0), tokenizer.size
    lengths = [spec.layout.num_tokens] * 6
    if isinstance(spec.layout, Sequence):
        lengths = [0, 1, 2, *lengths]
    rows = [rng.integers(0, size, n) for n in lengths]
    rows += [np.full(spec.layout.num_tokens, k, np.int64) for k in (0, size - 1)]
    decoded = list(calls.decode(tokenizer, rows))
    if spec.expected_decoding:
        decoded += calls.decode_expected(tokenizer, np.full((1, spec.layout.num_tokens, size), 1 / size, np.float32))
    for array in decoded:
        value = calls.denormalise(modality, array)
        calls.render(modality, value)
        calls.write(modality, value)


def round_trip_is_within_tolerance(subject: Subject) -> None:
    """Encoding and decoding changes an array little: the error is at most the declared share of the best constant's."""
    decoded = subject.decoded
    error = float(np.mean([distance(a, b) for a, b in zip(subject.arrays, decoded, strict=True)]))
    share = error / max(spread(subject.arrays), 1e-12)
    require(
        share <= subject.tolerance,
        f"decode∘encode is off by {share:.2f} of what the best constant is off by; at most {subject.tolerance:.2f}",
    )


def round_trip_beats_a_constant(subject: Subject) -> None:
    """By the modality's first metric, decoded values are better than every constant of `constants`."""
    modality = subject.modality
    values, metric = subject.denormalised, subject.metrics[0]
    decoded = [modality.denormalise(array) for array in subject.decoded]
    score = float(metric.compute(decoded, values))
    for name, value in modality.constants(values).items():
        other = float(metric.compute([value] * len(values), values))
        better = score > other if metric.higher_is_better else score < other
        require(better, f"{metric.name}: decode∘encode scores {score:.4g}, the constant {name!r} {other:.4g}")


def gaps_and_nothing_are_encoded(subject: Subject) -> None:
    """No arrays give no ids; gaps (NaN, no class, no words) give ids, or ValueError if the spec has none."""
    tokenizer = subject.tokenizer
    require(len(tokenizer.encode([])) == 0, "encode([]) must give []")
    require(subject.decoded and len(tokenizer.decode([])) == 0, "decode([]) must give []")
    whole = subject.arrays[0]
    if isinstance(subject.spec.array, Text):
        calls.encode(tokenizer, [""])
        return
    holes = whole.copy()
    holes.reshape(-1)[: whole.size // 2] = -1 if isinstance(subject.spec.array, ClassMap) else np.nan
    gaps_allowed = isinstance(subject.spec.array, ClassMap) or getattr(subject.spec.array, "gaps", False)
    try:
        (row,) = tokenizer.encode([holes])
    except ValueError as error:
        require(not gaps_allowed, f"the spec allows gaps, but encode raises: {error}")
        return
    require(0 <= row.min() <= row.max() < tokenizer.size, f"ids outside [0, {tokenizer.size})")


def saved_tokenizer_is_the_same(subject: Subject) -> None:
    """A tokenizer has the same fingerprint and gives the same ids after saving and loading."""
    folder = subject.folder / "tokenizer"
    folder.mkdir(exist_ok=True)
    subject.tokenizer.save(folder)
    again = subject.new_tokenizer()
    again.load(folder)
    require(again.fingerprint == subject.tokenizer.fingerprint, "saved and loaded, its fingerprint is another")
    require(_equal(again.encode(subject.arrays), subject.ids), "saved and loaded, it gives other ids")


def _equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


CHECKS: tuple[Check, ...] = (
    Check(tokenizer_is_fitted, claims=("tokens",)),
    Check(ids_are_in_range, claims=("tokens",)),
    Check(encoding_is_deterministic, claims=("tokens",)),
    Check(decoded_arrays_fit_the_spec, claims=("tokens",)),
    Check(batches_change_nothing, claims=("tokens",)),
    Check(any_ids_decode, claims=("tokens",)),
    Check(round_trip_is_within_tolerance, claims=("tokens",)),
    Check(round_trip_beats_a_constant, claims=("tokens", "constants", "metrics")),
    Check(gaps_and_nothing_are_encoded, claims=("tokens",)),
    Check(saved_tokenizer_is_the_same, claims=("tokens",)),
)

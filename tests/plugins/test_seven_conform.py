"""The seven plugins pass the conformance kit, each as `fourm plugins check` runs it but for fewer draws of masks."""

from __future__ import annotations

import pytest

from fourm_plugins.testing import check_modality
from fourm_plugins.testing import masker as masker_checks

#: What does not apply to a modality, or is not promised by it.
EXACT, VECTORS, CONSTANTS = "files_are_exact", "directions_change_sign", "constants_are_values"
SIDES = "sides_are_swapped"
ROUND_TRIP = "round_trip_beats_a_constant"
TEXT = {VECTORS, CONSTANTS, ROUND_TRIP, "flip_mirrors"}
PIXELS = {
    VECTORS,
    SIDES,
    ROUND_TRIP,
    "tokenizer_is_fitted",
    "ids_are_in_range",
    "encoding_is_deterministic",
    "batches_change_nothing",
    "decoded_arrays_fit_the_spec",
    "any_ids_decode",
    "round_trip_is_within_tolerance",
    "gaps_and_nothing_are_encoded",
    "values_are_combined",
    "saved_tokenizer_is_the_same",
    "learns",
    "targets_do_not_leak",
    "generated_tokens_decode",
}
NOT_CLAIMED = {
    "rgb": {VECTORS, SIDES},
    "rgb@pixels": PIXELS,
    "depth": {EXACT, VECTORS, SIDES},
    "normal": {EXACT, SIDES},
    "semseg": {VECTORS, SIDES},
    "clip": {EXACT, VECTORS, SIDES},
    "boxes": TEXT,
    "caption": TEXT | {"view_moves_the_picture"},
}


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_the_plugin_passes_every_check_of_what_it_claims(name, monkeypatch):
    monkeypatch.setattr(masker_checks, "DRAWS", 100)  # of the engine's maskers; tests/conformance draws 300
    report = check_modality(name)
    states = {outcome.name: outcome.state for outcome in report.checks}
    assert report.failed == report.count("not run") == 0, [o for o in report.checks if o.state in ("failed", "not run")]
    assert {name for name, state in states.items() if state == "not claimed"} == NOT_CLAIMED[name]
    assert {name for name, state in states.items() if state == "passed"} == set(states) - NOT_CLAIMED[name]

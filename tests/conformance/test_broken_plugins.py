"""The kit itself: a good plugin passes every check, and for every check there is a broken one that it alone finds."""

from __future__ import annotations

import sys

import pytest

from fourm_plugins import View
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.testing import CHECKS, Subject
from fourm_plugins.testing import masker as masker_checks
from fourm_plugins.testing.check import run_check
from tests.conformance.broken import BROKEN
from tests.conformance.packages import install

CONCERN = {check.name: check.concern for check in CHECKS}
#: Checks that take a process, a build, hundreds of draws or a training run.
COSTLY = {"imports", "packaging", "masker", "training", "coexistence"}
QUICK = {name for name, concern in CONCERN.items() if concern not in COSTLY} - {"fingerprint_is_stable"}
#: Stricter than what follows from the kit's default, so that a tokenizer can be too coarse and still beat a constant.
TOLERANCE = 0.8


@pytest.fixture
def put(tmp_path, monkeypatch):
    """put(package, changes, claims) -> the subject. What the plugin does to shared classes is undone."""
    monkeypatch.setattr(Modality, "__init__", Modality.__init__)
    monkeypatch.setattr(PluginManager, "modality", PluginManager.modality)
    monkeypatch.setattr(PluginManager, "find", PluginManager.find)
    subjects = []

    def make(package, changes=None, claims=frozenset()):
        monkeypatch.syspath_prepend(str(install(tmp_path, package, changes or {})))
        subjects.append(Subject(package, claims=claims, tolerance=TOLERANCE))
        return subjects[-1]

    yield make
    for subject in subjects:
        subject.close()
    for module in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[module]


def failures(subject, names=frozenset(CONCERN)):
    """Check -> (state, message) of those that did not pass."""
    outcomes = [run_check(c, subject, {}) for c in CHECKS if c.name in names]
    return {o.name: (o.state, o.message) for o in outcomes if o.state not in ("passed", "not claimed")}


@pytest.mark.parametrize("package", ["wind", "notes"])
def test_a_good_plugin_passes_every_check(put, package):
    subject = put(package, claims=frozenset({"exact_files"}))
    assert failures(subject) == {}
    assert "tokens" in subject.claims


def test_every_check_has_a_plugin_that_it_finds_broken():
    assert {broken.check for broken in BROKEN} == set(CONCERN)


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_plugin_is_found_by_its_check_alone(put, broken, monkeypatch):
    """Among the checks of its own concern and all that are quick."""
    monkeypatch.setattr(masker_checks, "DRAWS", 200)
    related = {name for name, concern in CONCERN.items() if concern == CONCERN[broken.check] and concern in COSTLY}
    names = QUICK | related | {broken.check}
    assert_only(failures(put(broken.package, broken.changes(), broken.claims), names), broken.check)


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_plugin_is_found_by_its_check_alone_of_all(put, broken, monkeypatch):
    monkeypatch.setattr(masker_checks, "DRAWS", 200)
    assert_only(failures(put(broken.package, broken.changes(), broken.claims)), broken.check)


def assert_only(found, check):
    """`check` failed; nothing else did, though what depends on it may not have been run."""
    assert found.get(check, ("passed", ""))[0] == "failed", found
    depends = ("not run", f"needs what {check} asks for, which failed")
    assert {name: outcome for name, outcome in found.items() if name != check and outcome != depends} == {}
    assert found[check][1], "says why"
    assert len(found[check][1].splitlines()) == 1


def test_without_an_engine_what_needs_one_cannot_run_and_is_no_success(put, monkeypatch):
    import importlib.metadata

    entry_points = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda **by: () if by.get("group") == "fourm.conformance.v1" else entry_points(**by),
    )
    of_a_model = {name for name, concern in CONCERN.items() if concern in ("training", "coexistence")}
    found = failures(put("wind"), of_a_model | {"tokenizer_is_fitted", "ids_are_in_range"})
    assert set(found) == of_a_model
    assert all(
        state in ("cannot run", "not run") and "fourm-engine is not installed" in message
        for state, message in found.values()
    )


def test_a_forgotten_and_a_silent_flip_of_vectors_are_told_with_the_claim_to_write(put):
    """A field of two components that are not flipped, and one that is flipped and claims nothing."""
    names = {"flip_mirrors", "directions_are_stated", "directions_change_sign"}
    forgotten = put("wind", {"acme_wind.py": ('claims = frozenset({"directions"})', "claims = frozenset()")})
    augment = forgotten.modality.augment
    (told,) = failures(forgotten, names).values()
    assert told[1].endswith('under a flip, as of vectors: write claims = frozenset({"directions"})')
    type(forgotten.modality).augment = lambda self, value, view: augment(value, View(*view.to_row()[:4]))
    (told,) = failures(forgotten, {*names} - {"flip_mirrors"}).values()
    assert 'changes its sign under a flip, and the class says claims = frozenset({"directions"})' in told[1]


def test_boxes_that_do_not_follow_a_view_are_seen_in_what_is_drawn(monkeypatch):
    from fourm_boxes import Boxes

    augment = Boxes.augment
    monkeypatch.setattr(Boxes, "augment", lambda self, value, view: augment(self, value, View(flip=view.flip)))
    subject = Subject("boxes")
    (check,) = (c for c in CHECKS if c.name == "view_moves_the_picture")
    outcome = run_check(check, subject, {})
    subject.close()
    assert outcome.state == "failed"
    assert "does not crop" in outcome.message


def test_without_hypothesis_a_broken_masker_is_found_by_plain_draws(put, monkeypatch):
    (broken,) = (b for b in BROKEN if str(b) == "inputs_and_targets_are_disjoint-wind")
    find_spec = masker_checks.importlib.util.find_spec
    absent = {"hypothesis"}
    monkeypatch.setattr(masker_checks.importlib.util, "find_spec", lambda n: None if n in absent else find_spec(n))
    masker = {name for name, concern in CONCERN.items() if concern == "masker"}
    assert_only(failures(put("wind", broken.changes()), masker), broken.check)

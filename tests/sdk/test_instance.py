"""What an instance of a modality must have, checked when it is made."""

from __future__ import annotations

import pytest

from fourm_plugins.contract import MOST_IDS, check_instance
from fourm_plugins.discovery import Plugin
from tests.fakes import fake_modalities

MODALITY = fake_modalities(["a"])["a"]
PLUGIN = Plugin("modality", "a", "acme:A", "acme", "1.0", "here", "ok", "", "")


def changed(**fields):
    modality = fake_modalities(["a"])["a"]
    modality.make_spec = lambda: modality.spec
    modality.spec = modality.spec.model_copy(update=fields)
    return modality


def test_an_instance_has_a_spec_of_its_name_that_does_not_change():
    assert check_instance(PLUGIN, changed(), "a")
    with pytest.raises(TypeError, match="make_spec calls 'a' 'b'; name it"):
        check_instance(PLUGIN, changed(name="b"), "a")
    none = changed()
    none.spec = None
    with pytest.raises(TypeError, match="make_spec gives None, not a"):
        check_instance(PLUGIN, none, "a")
    twice = changed()
    twice.make_spec = lambda: twice.spec.model_copy(update={"description": "new"})
    with pytest.raises(TypeError, match="not give the same spec twice; they differ in description"):
        check_instance(PLUGIN, twice, "a")
    huge = MODALITY.spec.token_space.model_copy(update={"size": MOST_IDS + 1})
    with pytest.raises(ValueError, match="are the most of a modality"):
        check_instance(PLUGIN, changed(token_space=huge), "a")

"""Ids are checked wherever they enter, and the tokenizer that gives wrong ones is named."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_plugins.contract import MOST_IDS, check_instance
from fourm_plugins.discovery import Plugin, PluginError
from fourm_plugins.encoding import encode
from tests.fakes import LevelsTokenizer, fake_modalities

MODALITY = fake_modalities(["a"])["a"]
TOKENS = MODALITY.spec.layout.num_tokens
PLUGIN = Plugin("modality", "a", "acme:A", "acme", "1.0", "here", "ok", "", "")


class Wrong(LevelsTokenizer):
    def __init__(self, gives):
        super().__init__([MODALITY.spec])
        self.gives = gives

    def encode(self, arrays):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (None, "gives NoneType for 1 array"),
        ([], "gives 0 rows for 1 array"),
        ([[0] * TOKENS], "gives list, not int64"),
        ([np.zeros(TOKENS, np.float32)], r"gives float32 \(.*\), not int64"),
        ([np.zeros((1, TOKENS), np.int64)], "not int64"),
        ([np.zeros(TOKENS - 1, np.int64)], "a sample, not"),
        ([np.full(TOKENS, 10**6)], "gives ids 1000000 to 1000000, outside its space"),
        ([np.full(TOKENS, -1)], "outside its space"),
        (ZeroDivisionError("by zero"), "failed to encode with ZeroDivisionError: by zero"),
        (ValueError("bad"), "failed to encode with ValueError: bad"),
    ],
)
def test_wrong_ids_name_the_tokenizer_and_what_to_do(gives, says):
    with pytest.raises(PluginError, match=says) as caught:
        encode(Wrong(gives), [None])
    assert str(caught.value).startswith("the tokenizer 'fake_levels' of a (test_encoding:Wrong)")
    assert "; repair or upgrade its package" in str(caught.value)


def test_a_fault_of_the_engines_own_tokenizer_is_no_plugins():
    own = type("Own", (Wrong,), {"__module__": "fourm_engine.tokenizers.own"})
    with pytest.raises(ZeroDivisionError):
        encode(own(ZeroDivisionError("by zero")), [None])


def test_right_ids_pass():
    ids = [np.zeros(TOKENS, np.int64)]
    assert encode(Wrong(ids), [None]) is ids


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

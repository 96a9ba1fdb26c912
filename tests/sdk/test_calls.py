"""What comes back from a plugin is checked wherever the engine relies on it, and a fault names method, modality,
package, what was expected and what came."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from fourm_plugins import Metric, SampleError, calls
from fourm_plugins.discovery import PluginError
from fourm_plugins.legend import Key
from fourm_plugins.modality import Labeller
from tests.fakes import LevelsTokenizer, fake_modalities

MODALITIES = fake_modalities(["a", "b", "words"])
A, B, WORDS = MODALITIES.values()
TOKENS = A.spec.layout.num_tokens
ARRAY = np.zeros((2, 8, 8), np.float32)
VALUE = np.zeros((8, 8, 2), np.float32)
IDS = np.zeros(TOKENS, np.int64)
SHARES = np.full((1, TOKENS, 16), 1 / 16, np.float32)
NAN = np.full_like(ARRAY, np.nan)
METRIC = Metric("error", lambda p, t: 0.0, higher_is_better=False)


def answering(thing, **methods):
    """`thing` with methods that give what is given, or raise it."""

    def method(gives):
        def answer(self, *_, **__):
            if isinstance(gives, Exception):
                raise gives
            return gives

        return answer

    cls = type("Wrong", (type(thing),), {name: method(gives) for name, gives in methods.items()})
    cls.__module__ = "acme.maps"
    return cls([A.spec]) if isinstance(thing, LevelsTokenizer) else cls(thing.name)


def tokenizer(hook, gives):
    return answering(LevelsTokenizer([A.spec]), **{hook: gives})


def told(call, *given):
    with pytest.raises(PluginError) as caught:
        call(*given)
    line, _, traceback = str(caught.value).partition("\n")
    assert "repair or upgrade its package" in line
    assert bool(traceback) == ("failed with" in line)
    return line


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (None, "gives None for 1 array"),
        ([], "gives 0 results for 1 array"),
        ([[0] * TOKENS], f"gives a list of {TOKENS} int, not int64 (tokens,)"),
        ([IDS.astype(np.float32)], f"gives float32 ({TOKENS},), not int64"),
        ([IDS[None]], "not int64 (tokens,)"),
        ([IDS[1:]], "a sample, not"),
        ([IDS + 10**6], "gives ids 1000000 to 1000000, outside its space"),
        ([IDS - 1], "outside its space"),
        (ZeroDivisionError("by zero"), "failed with ZeroDivisionError: by zero"),
        (ValueError("bad"), "failed with ValueError: bad"),
    ],
)
def test_ids(gives, says):
    line = told(calls.encode, tokenizer("encode", gives), [ARRAY])
    assert line.startswith("encode of a (tokenizer 'fake_levels', acme.maps:Wrong) ")
    assert says in line


@pytest.mark.parametrize("hook", ["decode", "decode_expected"])
@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (None, "gives None for 1 row"),
        (ARRAY[None], "gives float32 (1, 2, 8, 8) for 1 row"),
        ([ARRAY, ARRAY], "gives 2 results for 1 row"),
        ([None], "gives no array of its spec: expected float32 (2, 8, 8), found NoneType"),
        ([ARRAY[:1]], "gives no array of its spec: expected float32 (2, 8, 8), found float32 (1, 8, 8)"),
        ([ARRAY.astype(np.float64)], "found float64 (2, 8, 8)"),
        ([NAN], "gives no array of its spec: 128 values are NaN or infinite"),
        (SampleError("not these"), "failed with SampleError: not these"),
    ],
)
def test_decoded_arrays(hook, gives, says):
    given = [IDS] if hook == "decode" else SHARES
    assert says in told(getattr(calls, hook), tokenizer(hook, gives), given)


@pytest.mark.parametrize(
    ("hook", "given", "gives", "says"),
    [
        ("denormalise", [ARRAY], None, "gives None, not a value"),
        ("denormalise", [ARRAY], "map", "gives str 'map', which normalise does not take (TypeError"),
        ("denormalise", [ARRAY], VALUE[:4], "normalise makes no array of its spec: expected float32 (2, 8, 8), found"),
        ("denormalise", [ARRAY], VALUE.astype(np.float64), "found float64 (2, 8, 8)"),
        ("denormalise", [ARRAY], KeyError("x"), "failed with KeyError: 'x'"),
        ("denormalise", [ARRAY], SampleError("no"), "failed with SampleError: no"),
        ("denormalise_scored", ["text", []], None, "gives None, not a value"),
        ("compose", [VALUE, VALUE, np.ones((8, 8), bool)], VALUE[0], "which normalise does not take"),
        ("reduce", [[VALUE], "mean"], None, "gives None, not a value"),
        ("spread", [[VALUE]], "wide", "gives str 'wide', not numbers"),
        ("constants", [[VALUE]], [VALUE], "gives a list of 1 ndarray, not {description: value}"),
        ("constants", [[VALUE]], {"one value": None}, "gives for 'one value' None, not a value"),
        ("render", [VALUE], None, "gives None, neither a PIL picture of mode RGB nor a str"),
        ("render", [VALUE], VALUE, "gives float32 (8, 8, 2), neither"),
        ("render", [VALUE], Image.new("L", (2, 3)), "gives a PIL picture of mode L, 2x3, neither"),
        ("render", [VALUE], Image.new("RGB", (0, 3)), "mode RGB, 0x3, neither"),
        ("render", [VALUE], OSError("no font"), "failed with OSError: no font"),
        ("render_all", [[VALUE, VALUE]], ["one"], "gives 1 result for 2 values"),
        ("render_all", [[VALUE]], [None], "gives None, neither"),
        ("legend", [VALUE], "red", "gives str 'red', not a Scale, a Key or None"),
        ("remark", [VALUE], None, "gives None, not a str"),
        ("write", [VALUE], None, "gives None, not {extension: bytes}"),
        ("write", [VALUE], {}, "gives a dict of 0, not {extension: bytes}"),
        ("write", [VALUE], {"../npy": b""}, "gives a file '../npy'; the spec's extensions are npy"),
        ("write", [VALUE], {"npy": "text"}, "gives str 'text' as .npy, not bytes"),
        ("parts", [VALUE], {"x": "far"}, "gives a dict of 1 str, not {str: float}"),
        ("with_part", [VALUE, "x", 1.0], None, "gives None, not a value"),
        ("metrics", [], METRIC, "not a tuple of Metric"),
    ],
)
def test_what_a_modality_gives(hook, given, gives, says):
    line = told(getattr(calls, hook), answering(A, **{hook: gives}), *given)
    assert line.startswith(f"{hook} of a (acme.maps:Wrong) ")
    assert says in line
    assert line.endswith(", or leave a out")


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (None, "gives None, not a number"),
        ("0.5", "gives str '0.5', not a number"),
        (np.zeros(2), "gives float64 (2,), not a number"),
        (ZeroDivisionError("by zero"), "failed with ZeroDivisionError: by zero"),
    ],
)
def test_scores(gives, says):
    def compute(predictions, truths):
        if isinstance(gives, Exception):
            raise gives
        return gives

    line = told(calls.compute, A, Metric("error", compute, higher_is_better=False), [VALUE], [VALUE])
    assert line.startswith("the metric 'error' of a (")
    assert says in line


def test_labels_and_features():
    class Labels(Labeller):
        gives = None

        def label(self, values):
            return self.gives

    assert "label of a (tests.fakes:Picture) gives None for 1 value;" in told(calls.label, Labels(), A, [VALUE])
    Labels.gives = [None]
    assert "gives None, neither a value nor a SampleError" in told(calls.label, Labels(), A, [VALUE])
    Labels.gives = [SampleError("too dark")]
    assert calls.label(Labels(), A, [VALUE]) is Labels.gives
    for gives in (None, np.zeros(3, np.float32), np.zeros((2, 3), np.float32), np.zeros((1, 3), np.int64)):
        assert "not float32 (1, D)" in told(calls.features, A, lambda _, gives=gives: gives, [VALUE])


def test_what_is_right_passes_unchanged():
    ids, arrays = [IDS], [ARRAY]
    assert calls.encode(tokenizer("encode", ids), [ARRAY]) is ids
    assert calls.decode(tokenizer("decode", arrays), [IDS]) is arrays
    assert calls.denormalise(answering(A, denormalise=VALUE), ARRAY) is VALUE
    assert calls.legend(answering(A, legend=(key := Key(()))), VALUE) is key
    assert calls.compute(A, METRIC, [VALUE], [VALUE]) == 0.0
    assert np.isnan(calls.compute(A, Metric("none", lambda p, t: np.float64("nan"), False), [VALUE], [VALUE]))


def test_a_value_that_normalise_refuses_for_its_content_is_one():
    """Such as a map in which nothing is known."""
    assert calls.denormalise(answering(A, denormalise=(nothing := VALUE + np.nan)), ARRAY) is nothing


def test_errors_that_a_method_may_raise_pass():
    with pytest.raises(SampleError, match=r"^dark$"):
        calls.encode(tokenizer("encode", SampleError("dark")), [ARRAY])
    with pytest.raises(SampleError, match=r"^no such part$"):
        calls.with_part(answering(A, with_part=SampleError("no such part")), VALUE, "x", 1.0)
    with pytest.raises(MemoryError):
        calls.render(answering(A, render=MemoryError()), VALUE)
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory"):
        calls.decode(tokenizer("decode", RuntimeError("CUDA out of memory")), [IDS])


def test_a_fault_of_the_engines_own_tokenizer_is_no_plugins():
    own = tokenizer("encode", ZeroDivisionError("by zero"))
    type(own).__module__ = "fourm_engine.tokenizers.own"
    with pytest.raises(ZeroDivisionError):
        calls.encode(own, [ARRAY])


def test_the_package_is_named_with_its_version():
    from fourm_depth import Depth

    class Broken(Depth):
        def render(self, value):
            return None

    Broken.__module__ = "fourm_depth"
    line = told(calls.render, Broken("depth"), np.ones((8, 8), np.float32))
    assert re.match(r"render of depth \(fourm-depth \d[.\d]*, fourm_depth:.*Broken\) gives None, ", line)


def test_floats_of_one_shape_are_normalised_once(monkeypatch):
    modality, taken = fake_modalities(["a"])["a"], []
    normalise = modality.normalise
    monkeypatch.setattr(modality, "normalise", lambda value: taken.append(value.shape) or normalise(value))
    for array in (ARRAY, ARRAY + 1, np.zeros((2, 16, 16), np.float32), ARRAY):
        calls.denormalise(modality, array)
    assert taken == [(8, 8, 2), (16, 16, 2)]

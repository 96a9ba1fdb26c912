"""What a generated result shows of itself."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.result import Generated, Results


def test_results_are_a_dict_that_is_short_to_print_and_shows_pictures_and_escaped_text(model):
    height, words = model.modalities["height"], model.modalities["words"]
    results = Results(
        {
            "height": Generated(height, np.arange(16), np.zeros((8, 8), np.float32), "probabilities"),
            "words": Generated(words, np.arange(3), "<script>&" + "x" * 500),
        }
    )
    assert dict(results) == {"height": results["height"], "words": results["words"]}
    assert repr(results["height"]) == ("<Generated 'height': float32 (8, 8), 16 tokens; decoded from probabilities>")
    assert len(repr(results)) < 250
    page = results._repr_html_()
    assert "<img src='data:image/png;base64,iVBOR" in page
    assert "&lt;script&gt;&amp;" in page
    assert "<script>" not in page


def test_what_generate_returns_shows_itself(model):
    results = model.generate({}, ["words"])
    assert isinstance(results, Results)
    assert repr(results).startswith("<Results: <Generated 'words': ")
    assert "<b>words</b>" in results._repr_html_()


def test_several_samples_show_all_of_them(model):
    results = model.generate({}, ["words"], n_samples=3)
    page = results._repr_html_()
    assert page.startswith("<img src='data:image/png;base64,iVBOR")
    assert page.count("<img") == 1


def test_a_misspelt_target_of_a_result_is_named_with_the_right_one(model):
    results = model.generate({}, ["words"])
    with pytest.raises(KeyError, match="'word' was not generated; did you mean 'words'"):
        results["word"]
    assert results.get("word") is None


def test_inputs_are_short_to_print():
    keep = np.ones((64, 64), bool)
    assert repr(Condition("a.png", weight=2.0)) == "Condition(value='a.png', weight=2.0)"
    assert repr(Condition(np.zeros((64, 64)), keep=keep)) == "Condition(value=float64 (64, 64), keep=bool (64, 64))"
    assert len(repr(Ids(range(1000)))) < 60


def test_a_model_and_its_parts_say_what_they_are(model):
    model.missing["pose"] = "its plugin is not installed"
    text = repr(model)
    assert text.startswith("<FourM: ")
    assert "M parameters on cpu" in text
    assert "\n  height: input and target, 16 tokens per sample" in text
    assert "\n  pose: missing, its plugin is not installed" in text
    assert repr(model.vocabulary).startswith(f"<Vocabulary of {model.vocabulary.size} rows: ")
    height = model.modalities["height"]
    assert repr(height).endswith("('height')")
    assert repr(height.spec).startswith("<ModalitySpec 'height': Grid(")
    assert f"of height: {model.tokenizers['height'].size} ids" in repr(model.tokenizers["height"])


def test_a_plugin_manager_counts_what_can_be_used_and_names_what_cannot(model):
    from fourm_plugins.manager import PluginManager

    text = repr(PluginManager(disabled=["height"]))
    assert "modality" in text
    assert "height (disabled)" in text

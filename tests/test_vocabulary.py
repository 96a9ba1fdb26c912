"""The vocabulary: rows never move, a token space has one owner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import FeatureMap, Grid, ModalitySpec, Sequence, Text, TokenizerRecipe, TokenSpace


def grid_spec(name: str, size: int = 8) -> ModalitySpec:
    return ModalitySpec(
        name=name,
        source=name.partition("@")[0],
        layout=Grid(height=2, width=2),
        array=FeatureMap(channels=1, height=4, width=4),
        token_space=TokenSpace(name=name, size=size),
        tokenizer=TokenizerRecipe(kind="vqvae"),
        extensions=("npy",),
    )


def text_spec(name: str, **space) -> ModalitySpec:
    return ModalitySpec(
        name=name,
        source=name,
        layout=Sequence(max_tokens=16),
        array=Text(),
        token_space=TokenSpace(**{"name": "text", "size": 300, "shared": True, **space}),
        tokenizer=TokenizerRecipe(kind="wordpiece"),
        extensions=("txt",),
    )


def pixels_spec(name: str) -> ModalitySpec:
    return grid_spec(name).model_copy(update={"token_space": None, "tokenizer": None, "target": False})


names = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True)


@given(names, names)
def test_extending_never_moves_a_row(first, second):
    before = Vocabulary.build(grid_spec(name, size=ord(name)) for name in first)
    after = before.extend(grid_spec(name, size=ord(name)) for name in second)
    assert after.entries[: len(before)] == before.entries
    assert set(after.names) == set(first) | set(second)


@given(names)
def test_rows_are_disjoint_contiguous_and_independent_of_the_order_of_discovery(found):
    vocabulary = Vocabulary.build(grid_spec(name, size=ord(name)) for name in found)
    assert vocabulary.to_json() == Vocabulary.build(grid_spec(n, size=ord(n)) for n in reversed(found)).to_json()
    rows = [row for entry in vocabulary for row in range(entry.start, entry.stop)]
    assert rows == list(range(vocabulary.size))


def test_a_continuous_modality_owns_no_rows():
    vocabulary = Vocabulary.build([pixels_spec("a@pixels"), grid_spec("b")])
    assert vocabulary["a@pixels"].size == 0
    assert vocabulary["a@pixels"].patch_dim == 4
    assert vocabulary.size == 8


def test_a_modality_that_changed_size_is_refused():
    with pytest.raises(ValueError, match=r"'a' changed since the vocabulary was built: it had 8 ids .* now 16"):
        Vocabulary.build([grid_spec("a")]).extend([grid_spec("a", size=16)])


def test_modalities_may_share_a_token_space_and_keep_rows_of_their_own():
    vocabulary = Vocabulary.build([text_spec("words"), text_spec("labels")])
    assert [entry.size for entry in vocabulary] == [300, 300]


def test_a_private_token_space_has_one_owner():
    with pytest.raises(ValueError, match="token space 'text' is owned twice, by words and labels"):
        Vocabulary.build([text_spec("words"), text_spec("labels", shared=False)])


def test_users_of_a_shared_space_must_describe_it_alike():
    with pytest.raises(
        ValueError,
        match=r"space 'text' but .* differently: token_space.size of words is 300, of labels 400; set them alike",
    ):
        Vocabulary.build([text_spec("words"), text_spec("labels", size=400)])


def test_asking_for_an_unknown_modality_names_what_there_is():
    with pytest.raises(ValueError, match="no modality 'x' in the vocabulary; it has a, b"):
        Vocabulary.build([grid_spec("a"), grid_spec("b")])["x"]


def test_a_spec_cannot_contradict_itself():
    with pytest.raises(ValueError, match="3x3 tokens does not divide 4x4 pixels"):
        ModalitySpec(**{**grid_spec("a").model_dump(), "layout": Grid(height=3, width=3)})
    with pytest.raises(ValueError, match="no tokens to predict"):
        ModalitySpec(**{**pixels_spec("a").model_dump(), "target": True})


def test_a_resized_grid_keeps_its_rows_and_remembers_the_grid_it_was_trained_on_also_when_extended():
    first = Vocabulary.build([grid_spec("a"), text_spec("t")])
    wider = grid_spec("a").model_copy(update={"layout": Grid(height=4, width=6)})
    resized = first.resized([wider]).extend([wider, text_spec("t"), grid_spec("z")])
    assert resized["a"].position_grid == (2, 2)
    assert (resized["a"].start, resized["a"].stop, resized["t"]) == (first["a"].start, first["a"].stop, first["t"])
    again = resized.resized([wider.model_copy(update={"layout": Grid(height=8, width=8)})])
    assert again["a"].position_grid == (2, 2)  # that of the weights, not of the last run
    with pytest.raises(ValueError, match="the model knows a grid of 8 ids"):
        first.resized([grid_spec("a", 9)])
    with pytest.raises(ValueError, match="no modality 'q'"):
        first.resized([grid_spec("q")])

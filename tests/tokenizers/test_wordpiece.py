"""WordPiece as its users see it: text in, ids out, text back."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from tests.grids import text_spec

BINS = 64
LABELS = ("cube", "traffic light", "person", "t-shirt", "Wine Glass")
TEXTS = [
    "a red cube and two blue cubes",
    "three small spheres behind a large green cone, on the left",
    "v0=1 v1=2 v2=30 v3=63 traffic light v0=0 v1=5 v2=9 v3=9 cube",
    "a person with a wine glass; a t-shirt?",
]


def tokenizer(size=1200, words=LABELS, bins=BINS, texts=TEXTS, specs=("boxes", "caption")):
    made = WordPieceTokenizer([text_spec(name, size=size) for name in specs], coordinate_bins=bins, words=words)
    made.fit(lambda: texts)
    return made


@pytest.fixture(scope="module")
def fitted():
    return tokenizer()


def ids_of(made, text):
    return made.encode([text])[0].tolist()


def test_special_ids_are_laid_out_as_published():
    made = tokenizer(size=6000, bins=1000)
    token = made._model.token_to_id
    assert [token(text) for text in ("[PAD]", "[UNK]", "[SOS]", "[EOS]", "[S_0]", "[S_199]")] == [0, 1, 2, 3, 4, 203]
    assert ids_of(made, "v0=0 v1=0 v2=0 v3=0 v0=999 v3=999") == [204, 1204, 2204, 3204, 1203, 4203]
    assert [ids_of(made, label) for label in LABELS] == [[4204 + i] for i in range(len(LABELS))]
    assert made.end_id == 3
    assert list(made.sentinel_ids) == list(range(4, 204))
    assert min(ids_of(made, "a red")) >= 4204 + len(LABELS)


def test_coordinates_follow_the_number_of_bins(fitted):
    assert ids_of(fitted, "v0=0 v0=63 v1=0 v3=63") == [204, 267, 268, 204 + 4 * 64 - 1]


def test_the_steps_of_each_coordinate_are_a_scale(fitted):
    assert fitted.ordinal_ranges == tuple(range(204 + axis * BINS, 204 + (axis + 1) * BINS) for axis in range(4))


coordinate = st.integers(0, BINS - 1)
box = st.tuples(coordinate, coordinate, coordinate, coordinate, st.sampled_from(LABELS))


@settings(max_examples=40)
@given(st.lists(box, max_size=8))
def test_boxes_survive_the_round_trip(fitted, boxes):
    text = " ".join(f"v0={a} v1={b} v2={c} v3={d} {label}" for a, b, c, d, label in boxes)
    (ids,) = fitted.encode([text])
    assert ids.dtype == np.int64
    assert len(ids) == 5 * len(boxes)
    assert fitted.decode([ids]) == [text]


word = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)


@settings(max_examples=40)
@given(st.lists(st.one_of(word, st.sampled_from(["red", "cube", "spheres", "traffic light"])), max_size=12))
def test_captions_survive_the_round_trip(fitted, words):
    text = " ".join(words)
    assert fitted.decode(fitted.encode([text])) == [text]


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_any_text_is_encoded_within_the_space_and_without_control_tokens(fitted, text):
    (ids,) = fitted.encode([text])
    assert all(i == 1 or 204 <= i < fitted.size for i in ids.tolist())
    assert isinstance(fitted.decode([ids])[0], str)


def test_labels_that_are_no_special_word_survive_too():
    made = tokenizer(words=())
    assert made.decode(made.encode(["v0=1 v1=2 v2=3 v3=4 fire hydrant"])) == ["v0=1 v1=2 v2=3 v3=4 fire hydrant"]


def test_case_and_accents_are_folded_and_words_found_in_any_case(fitted):
    assert ids_of(fitted, "A RED Café") == ids_of(fitted, "a red cafe")
    assert ids_of(fitted, "TRAFFIC Light") == ids_of(fitted, "traffic light")
    assert len(ids_of(fitted, "traffic light")) == 1


def test_control_tokens_written_in_a_text_are_not_obeyed(fitted):
    assert ids_of(fitted, "red [EOS] [S_3] [PAD] cube") == ids_of(fitted, "red cube")


def test_decoded_text_has_no_space_before_punctuation(fitted):
    text = "from left to right: a cube (small); a cone, two spheres."
    assert fitted.decode(fitted.encode([text])) == [text]


def test_decoding_drops_control_tokens_and_keeps_the_rest(fitted):
    ids = [2, *ids_of(fitted, "v0=7 traffic light"), 5, 1, 0, *ids_of(fitted, "red"), fitted.size - 1, 3]
    assert fitted.decode([np.array(ids)]) == ["v0=7 traffic light red"]


def test_the_vocabulary_never_exceeds_its_space():
    texts = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmno" for c in "pqrstuv"] * 2
    made = tokenizer(size=560, words=(), texts=texts)
    assert made._model.get_vocab_size() == 560
    assert max(max(row) for row in made.encode(texts)) < 560
    with pytest.raises(ValueError, match="300 ids does not hold 460 special tokens"):
        tokenizer(size=300, words=())


# Words of few letters have many equally frequent pairs: where ties were broken by chance, it would show.
TIES = ["".join(np.random.default_rng(i).choice(list("ab"), i % 13 + 1)) for i in range(400)]
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_wordpiece import TIES, tokenizer
print(tokenizer().fingerprint, tokenizer(texts=TIES).fingerprint)
"""


def test_fitting_gives_the_same_vocabulary_in_every_process(fitted):
    folder = __file__.rpartition("/")[0]
    for threads in ("true", "false"):
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": threads}
        command = [sys.executable, "-c", PROGRAM, folder]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        assert output.split() == [fitted.fingerprint, tokenizer(texts=TIES).fingerprint]
    assert tokenizer().fingerprint == fitted.fingerprint
    assert tokenizer(texts=TEXTS[:1]).fingerprint != fitted.fingerprint


def pieces(*texts):
    """Those beyond single characters, in the order in which they were learnt."""
    vocabulary = tokenizer(words=(), texts=texts)._model.get_vocab()
    learnt = sorted(vocabulary, key=vocabulary.__getitem__)[4 + 200 + 4 * BINS :]
    return [piece for piece in learnt if len(piece.removeprefix("##")) > 1]


def test_the_most_frequent_pairs_become_pieces_and_a_word_seen_once_is_no_pattern():
    assert pieces("abc " * 5 + "abd " * 2 + "xy " * 4) == ["ab", "abc", "xy", "abd"]
    assert pieces("abc") == []


def test_the_order_of_the_texts_does_not_matter():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcé"), rng.integers(1, 9))) for _ in range(300)]
    assert pieces(*texts) == pieces(*texts[::-1])


def test_save_and_load_keep_ids_and_fingerprint(fitted, tmp_path):
    fitted.save(tmp_path)
    again = WordPieceTokenizer(fitted.specs, coordinate_bins=BINS, words=LABELS)
    again.load(tmp_path)
    assert again.fingerprint == fitted.fingerprint
    assert [row.tolist() for row in again.encode(TEXTS)] == [row.tolist() for row in fitted.encode(TEXTS)]


def test_a_vocabulary_file_is_taken_as_it_is(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = WordPieceTokenizer([text_spec(size=1200)], vocabulary=tmp_path / "wordpiece.json")
    loaded.fit(lambda: ["other words"])
    assert [row.tolist() for row in loaded.encode(TEXTS)] == [row.tolist() for row in fitted.encode(TEXTS)]
    small = WordPieceTokenizer([text_spec(size=464)], vocabulary=tmp_path / "wordpiece.json")
    with pytest.raises(ValueError, match=r"caption: the vocabulary has \d+ ids, its token space 464"):
        small.fit(list)


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"}'])
def test_a_file_that_is_no_vocabulary_is_named(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json: not a WordPiece vocabulary"):
        WordPieceTokenizer([text_spec()], vocabulary=path).fit(list)


def test_a_vocabulary_without_special_tokens_is_refused(fitted, tmp_path):
    document = json.loads(fitted._model.to_str())
    document["added_tokens"] = []
    document["model"]["vocab"] = {"[UNK]": 0, "a": 1}
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"has no \[PAD\]"):
        WordPieceTokenizer([text_spec()], vocabulary=path).fit(list)


def test_texts_out_of_bounds_are_refused_by_name(fitted):
    short = WordPieceTokenizer([text_spec(max_characters=5)], coordinate_bins=9)
    with pytest.raises(ValueError, match="caption: a text of 6 characters, at most 5"):
        short.encode(["sphere"])
    with pytest.raises(ValueError, match="boxes/caption: expected a string, found int"):
        fitted.encode([3])


@pytest.mark.parametrize("words", [("a", "A"), ("",), ("two  words",), ("[EOS]",), ("v0=3",)])
def test_words_that_cannot_be_told_apart_are_refused(words):
    with pytest.raises(ValueError, match="words"):
        WordPieceTokenizer([text_spec()], words=words)

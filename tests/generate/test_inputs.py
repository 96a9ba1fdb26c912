"""What a user may give a model: paths, bytes, pictures, arrays, tensors, text; ids only as `Ids`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fourm_engine as fm
from fourm_engine.cli.generate import generate
from fourm_engine.generate.inputs import InputReader
from tests.generate.toys import heights, modalities, picture, tokenizers


@pytest.fixture(scope="module")
def reader() -> InputReader:
    mods = modalities()
    return InputReader(mods, tokenizers(mods), lambda name: mods[name])


def ids(reader, name, given):
    return reader.read({name: given}, [])[0].shown[name].ids.tolist()


def test_a_picture_is_the_same_input_in_any_form(reader, tmp_path):
    value = picture(1, 12, 16)
    path = tmp_path / "photo.PNG"
    Image.fromarray(value).save(path)
    forms = [path, str(path), path.read_bytes(), Image.open(path), value, torch.from_numpy(value), value[::-1][::-1]]
    shown = [reader.read({"colour": form}, [])[0].shown["colour@pixels"].features for form in forms]
    assert all(np.array_equal(shown[0], features) for features in shown)


def test_integers_are_values_and_ids_are_given_as_ids(reader):
    assert ids(reader, "height", fm.Ids(torch.arange(16) % 8)) == [i % 8 for i in range(16)]
    assert ids(reader, "words", fm.Ids([9, 10])) == [9, 10, 1]
    for given in (np.zeros(16, np.int64), [0] * 16, torch.zeros(16, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"input 'colour@pixels'.*give token ids as Ids\(") as caught:
            reader.read({"colour@pixels": given}, [])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: fm.Ids([0.5]), r"token ids are integers \(n,\); given: float64 \(1,\)"),
        (lambda: fm.Ids("abc"), "token ids are integers"),
        (lambda: fm.Ids([[1, 2]]), r"\(1, 2\)"),
        (lambda: fm.Ids([True]), "bool"),
        (lambda: fm.Ids([8] * 16), r"'height': id 8 is outside \[0, 8\)"),
        (lambda: fm.Ids([]), "'height': 0 ids, but it has 16 tokens"),
    ],
)
def test_ids_are_checked(reader, given, message):
    with pytest.raises(ValueError, match=message):
        reader.read({"height": given()}, [])


@pytest.mark.parametrize(
    "given", ["nowhere.txt", "captions/0001.txt", "../0001.text", "data/0001", "/no such folder/a b", "missing.json"]
)
def test_what_looks_like_a_path_is_never_taken_for_text(reader, given):
    with pytest.raises(ValueError, match=r"input 'words': no such file.*Typed"):
        reader.read({"words": given}, [])


@pytest.mark.parametrize("given", ["abc", "a cat and/or a dog", "at 3 p.m.", "u.s.a", "one\ntwo.txt and more"])
def test_a_sentence_is_text(reader, given):
    assert len(ids(reader, "words", given)) > 1


def test_text_that_looks_like_a_path_can_be_said_to_be_text(reader):
    assert ids(reader, "words", fm.Typed("a/b.txt")) == ids(reader, "words", fm.Typed("abtxt"))
    with pytest.raises(ValueError, match="input 'height': cannot be typed"):
        reader.read({"height": fm.Typed("1 2 3")}, [])


def test_errors_name_what_was_given_and_not_what_it_is_shown_as(reader, tmp_path):
    for given in (
        tmp_path,
        "nowhere.png",
        b"",
        np.zeros((0, 0, 3), np.uint8),
        None,
        object(),
        5,
    ):
        with pytest.raises(ValueError, match=r"^input 'colour'") as caught:
            reader.read({"colour": given}, [])
        assert "colour@pixels" not in str(caught.value)
    mask = np.zeros((3, 3), bool)
    for inputs in (
        {"colour": fm.Condition(picture(), keep=mask)},
        {"colour": picture(1, 8, 16), "height": heights()},
    ):
        with pytest.raises(ValueError, match="'colour'") as caught:
            reader.read(inputs, [])
        assert "colour@pixels" not in str(caught.value)


def test_an_array_of_another_shape_than_the_model_takes_is_refused(reader):
    with pytest.raises(ValueError, match=r"input 'pose': expected float32 \(6,\), found float32 \(5,\)"):
        reader.read({"pose": np.zeros(5, np.float32)}, [])


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path


def test_the_command_takes_paths_and_text_and_mistakes_neither(folder, capsys):
    (folder / "words.txt").write_text("hello")

    def command(given):
        generate(str(folder / "model"), target=["height"], out=folder / "out", given=[given], device="cpu")

    for given in (f"words={folder / 'words.txt'}", "words=hello there", "words=text:not/a/file.txt"):
        command(given)
    for given in ("words=gone.txt", f"words={folder}/gone.txt", "colour=text:red"):
        with pytest.raises(ValueError, match=rf"^input '{given.partition('=')[0]}': (no such file|cannot be)"):
            command(given)

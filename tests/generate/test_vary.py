"""Probing: one thing over a range, everything else as it is."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from fourm_engine.cli import main
from fourm_engine.cli.vary import _axis
from fourm_plugins import SampleError
from tests.generate.toys import picture
from tests.plugins.instances import modality

CUBE = [("cube", 0.1, 0.4, 0.3, 0.8)]


@pytest.fixture
def model(model, monkeypatch):
    """Of which a toy has a part: its brightness."""
    height = model.modalities["height"]
    monkeypatch.setattr(type(height), "parts", lambda self, value: {"level": float(value.mean())})
    monkeypatch.setattr(type(height), "with_part", lambda self, value, part, number: value - value.mean() + number)
    monkeypatch.setattr(type(height), "from_array", lambda self, array: np.asarray(array, np.float32), raising=False)
    return model


def test_each_point_is_what_generate_makes_of_it(model):
    flat = np.zeros((8, 8), np.float32)
    variation = model.vary({"height": flat}, "words", vary={"height.level": [-0.9, 0.0, 0.9]}, seed=5)
    assert variation.points == [{"height.level": level} for level in (-0.9, 0.0, 0.9)]
    for level, result in zip((-0.9, 0.0, 0.9), variation.results, strict=True):
        alone = model.generate({"height": flat + np.float32(level)}, "words", seed=5)
        assert result["words"].tokens.tolist() == alone["words"].tokens.tolist()


def test_weights_options_seeds_and_whole_inputs_vary_and_two_things_make_a_table(model):
    given = {"colour": picture(), "words": "abc"}
    table = model.vary(
        given, "height", vary={"words": ["abc", "xyz"], "guidance": [0.0, 3.0]}, steps=2, temperature=1.0
    )
    assert [list(point.values()) for point in table.points] == [["abc", 0.0], ["abc", 3.0], ["xyz", 0.0], ["xyz", 3.0]]
    # Unguided, what is given does not count.
    tokens = [result["height"].tokens.tolist() for result in table.results]
    assert tokens[0] == tokens[2]
    assert tokens[1] != tokens[3]
    weights = model.vary(given, "height", vary={"guidance.words": [0, 2]}, steps=2, temperature=1.0, seed=4)
    alone = model.generate(given, "height", guidance={"words": 2}, steps=2, temperature=1.0, seed=4)
    assert weights.results[1]["height"].tokens.tolist() == alone["height"].tokens.tolist()
    seeds = model.vary(given, "height", vary={"seed": [1, 2, 3]}, steps=2, temperature=1.0)
    assert len({tuple(result["height"].tokens.tolist()) for result in seeds.results}) == 3


def test_a_variation_is_short_to_print_and_shows_its_sheet(model):
    made = model.vary({"words": "ab"}, "colour", vary={"words": ["ab", "ba"], "guidance": [0, 1, 3]})
    assert repr(made) == "<Variation of words (2 values) x guidance (3 values): 6 results of colour>"
    assert made._repr_html_().startswith("<img src='data:image/png;base64,iVBOR")


def test_the_sheet_has_a_column_a_value_and_a_row_for_what_varies_and_each_target(model):
    flat = np.zeros((8, 8), np.float32)
    three = model.vary({"height": flat}, ["colour"], vary={"height.level": [-0.5, 0.0, 0.5]}).sheet(cell=40)
    five = model.vary({"height": flat}, ["colour"], vary={"height.level": [-0.5, 0.0, 0.2, 0.4, 0.5]}).sheet(cell=40)
    whole = model.vary({"words": "abc"}, ["colour"], vary={"words": ["abc", "xyz"]}).sheet(cell=40)
    assert five.width - three.width == 2 * 48
    assert three.height - whole.height > 40
    grey = np.asarray(five.convert("RGB"))[: three.height // 2].reshape(-1, 3)
    assert {tuple(c) for c in grey.tolist()} >= {(63, 63, 63), (127, 127, 127), (191, 191, 191)}


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        ({"height.depth": [1, 2]}, r"input 'height': no part 'depth' in what is given; it has level"),
        ({"words.0.x": [1, 2]}, "'words.0.x' is neither a part of an input nor an option"),
        ({"warmth": [1, 2]}, "'warmth' is neither a part"),
        ({"height.level": [1]}, "at least two values"),
        ({"height.level": "12"}, "at least two values"),
        ({"top_k": ["a", "b"]}, "top_k: 'a' is not a number"),
        ({"height.level": ["a", "b"]}, "height.level: 'a' is not a number"),
        ({"seed": range(30), "steps": range(1, 17)}, "480 results, but a sheet has at most 400"),
        ({}, "one or two axes"),
    ],
)
def test_what_cannot_vary_is_said_before_anything_is_generated(model, monkeypatch, vary, says):
    monkeypatch.setattr(model.sampler, "run", lambda *_: pytest.fail("generated"))
    with pytest.raises(ValueError, match=says):
        model.vary({"height": np.zeros((8, 8), np.float32)}, "words", vary=vary)


def test_a_box_moves_and_grows_about_its_middle_and_is_cut_to_the_picture():
    boxes = modality("boxes")
    value = boxes.value(CUBE)
    moved = boxes.with_part(value, "0.x", 0.6)[0]
    assert (moved.x0, moved.x1, moved.y0, moved.y1) == pytest.approx((0.5, 0.7, 0.4, 0.8))
    wide = boxes.with_part(value, "0.width", 1.0)[0]
    assert (wide.x0, wide.x1) == pytest.approx((0.0, 0.7))
    assert value == boxes.value(CUBE)
    for part, number in (("0.x", 3.0), ("0.width", 0.0), ("1.x", 0.5)):
        with pytest.raises(SampleError):
            boxes.with_part(value, part, number)


def test_the_region_of_a_class_moves_and_what_it_leaves_is_filled_from_around_it():
    maps = modality("semseg", classes=["floor", "wall", "cube"])
    value = np.zeros((16, 16), np.int64)
    value[:6] = 1
    value[8:12, 2:6] = 2
    moved = maps.with_part(value, "cube.x", 0.75)
    assert (moved[8:12, 10:14] == 2).all()
    assert (moved == 2).sum() == 16
    assert (moved[8:12, 2:6] == 0).all()
    assert (moved[:6] == 1).all()
    twice = maps.with_part(value, "cube.size", 2.0)
    assert (twice[6:14, :8] == 2).all()
    assert (twice == 2).sum() == 64
    assert np.array_equal(maps.with_part(value, "cube.y", maps.parts(value)["cube.y"]), value)
    for part, number in (("cube.x", 9.0), ("cube.size", 0.0), ("ball.x", 0.5)):
        with pytest.raises(SampleError):
            maps.with_part(value, part, number)
    with pytest.raises(SampleError, match="covers all"):
        maps.with_part(np.zeros((4, 4), np.int64), "floor.x", 0.2)


def test_ranges_lists_and_words_are_read():
    assert _axis("boxes.0.x=0.1:0.5:3") == ("boxes.0.x", [0.1, 0.3, 0.5])
    assert _axis("guidance=0,1,3.5") == ("guidance", [0.0, 1.0, 3.5])
    assert _axis("words=a red cube | two, three") == ("words", ["a red cube", "two, three"])
    for wrong in ("guidance", "guidance=", "guidance=a,b", "guidance=0:1:1", "guidance=0:1:2.5", "=1,2"):
        with pytest.raises(ValueError, match="--vary"):
            _axis(wrong)


def test_the_command_writes_the_sheet_alone(model, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "model")
    words = ["fourm", "vary", str(tmp_path / "model"), "--input", "words=abc", "--target", "colour", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*words, "--vary", "seed=0:3:4", "--out", str(tmp_path / "out/sheet.png")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "sheet.png: 4 results" in capsys.readouterr().out
    assert Image.open(tmp_path / "out/sheet.png").width > 4 * 160
    monkeypatch.setattr(sys, "argv", [*words, "--vary", "seed=0:3:4", "--out", str(tmp_path / "sheet.jpg")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "the sheet is a .png" in capsys.readouterr().err


def test_an_input_that_its_modality_cannot_read_is_one_line(model, monkeypatch):
    def value(self, given):
        return given.shape

    monkeypatch.setattr(type(model.modalities["height"]), "value", value)
    with pytest.raises(ValueError, match=r"input 'height': .* is not a value of it \(.*no attribute 'shape'\)"):
        model.vary({"height": 5}, "words", vary={"height.level": [0.1, 0.2]})

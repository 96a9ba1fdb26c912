"""Edits: what stays, what changes, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from fourm_engine.cli.edit import edit as command
from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.sample import without_halo
from tests.generate.toys import SIDE, heights, picture


def corner(rows: int = 3, columns: int = 3, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), np.bool_)
    mask[:rows, :columns] = True
    return mask


def test_pixels_outside_a_mask_are_those_of_the_input_and_all_grids_are_edited(model):
    sample, mask = {"colour": picture(), "height": heights(), "words": "abc"}, corner()
    out = model.edit(sample, mask=mask, halo=0)
    assert list(out) == ["colour", "height"]
    for name, generated in out.items():
        assert (generated.value[~mask] == sample[name][~mask]).all()
        assert (generated.value[mask] != sample[name][mask]).any()
        assert (generated.given == ~mask).all()


def test_a_larger_picture_is_edited_at_the_models_size(model):
    given, mask = picture(1, 16, 16), corner(5, 4, 16)
    out = model.edit({"colour": given}, mask=mask)["colour"]
    small = np.asarray(Image.fromarray(given).resize((8, 8), Image.Resampling.BOX))
    known = ~corner(3, 2)  # the fifth row touches the third of the small picture
    assert (out.given == known).all()
    assert (out.value[known] == small[known]).all()


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (9, 9), (13, 21), (31, 17), (200, 133)])
@pytest.mark.parametrize("halo", [0, 1])
def test_the_command_leaves_what_is_outside_a_mask_of_a_file_of_any_size(model, tmp_path, rows, columns, halo):
    given, mask = picture(1, rows, columns), np.zeros((rows, columns), np.bool_)
    mask[rows // 3 : rows // 2, columns // 3 : columns // 2 + 1] = True
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(given).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = {"given": [f"colour={tmp_path / 'photo.png'}"], "mask": tmp_path / "mask.png", "out": tmp_path / "out"}
    command(str(tmp_path / "model"), **files, halo=halo, device="cpu", seed=4)
    edge = min(rows, columns)
    left, top = (columns - edge) / 2, (rows - edge) / 2
    centre = (left, top, left + edge, top + edge)
    seen = np.asarray(Image.fromarray(given).resize((SIDE, SIDE), Image.Resampling.BOX, box=centre))
    known = np.empty((SIDE, SIDE), np.bool_)  # where no pixel of the file below is masked
    for i, j in np.ndindex(SIDE, SIDE):
        (y0, x0), (y1, x1) = ((top + k * edge / SIDE, left + l * edge / SIDE) for k, l in ((i, j), (i + 1, j + 1)))
        known[i, j] = not mask[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)].any()
    out = np.asarray(Image.open(tmp_path / "out/colour.png"))
    assert 0 < known.sum() < known.size
    assert (out[known] == seen[known]).all()
    assert (out[~known] != seen[~known]).any()


def test_the_halo_is_generated_anew_and_its_pixels_stay(model):
    value = picture(2)
    known = {
        halo: model.reader.read({"colour": Condition(value, keep=~corner(2, 2), halo=halo)}, ["colour"])[0]
        for halo in (0, 1, 2, 3)
    }
    assert [len(sample.known.get("colour", ())) for sample in known.values()] == [15, 12, 7, 0]
    assert all((sample.kept["colour"].pixels == ~corner(2, 2)).all() for sample in known.values())
    out = model.edit({"colour": value}, mask=corner(2, 2), halo=100)["colour"]
    assert (out.value[~corner(2, 2)] == value[~corner(2, 2)]).all()


def test_a_halo_has_the_shape_of_a_square(model):
    tokens = np.ones((4, 4), np.bool_)
    tokens[0, 0] = False
    spread = without_halo(tokens.reshape(-1), model.modalities["colour"].spec, 1).reshape(4, 4)
    assert (spread == ~corner(2, 2, 4)).all()


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "guidance": 2.0}])
def test_a_mask_of_everything_is_plain_generation(model, options):
    out = model.edit({"colour": picture(), "words": "abc"}, mask=np.ones((8, 8), bool), seed=3, **options)["colour"]
    plain = model.generate({"words": "abc"}, ["colour"], seed=3, **options)["colour"]
    assert (out.value == plain.value).all()
    assert (out.tokens == plain.tokens).all()
    assert out.given is None


def test_what_is_not_changed_or_kept_follows_the_change(model):
    sample = {"height": heights(), "colour": picture(), "words": "abc"}
    one, again, other = (model.edit(sample, change={"words": text}, seed=1) for text in ("xyz", "xyz", "qrs"))
    assert list(one) == ["height", "colour"]
    assert (one["colour"].value == again["colour"].value).all()
    assert (one["colour"].value != other["colour"].value).any()
    kept = model.edit(sample, change={"words": "xyz"}, keep="height", seed=1)
    plain = model.generate({"height": sample["height"], "words": "xyz"}, ["colour"], seed=1)
    assert list(kept) == ["colour"]
    assert (kept["colour"].value == plain["colour"].value).all()


def test_a_change_tells_what_comes_under_the_mask(model):
    sample, mask = {"colour": picture(), "height": heights()}, corner(5, 5)
    one, again, other = (
        model.edit(sample, mask=mask, change={"words": text}, keep=["height"], seed=2) for text in ("a", "a", "zzzzz")
    )
    assert list(one) == ["colour"]
    assert (one["colour"].value == again["colour"].value).all()
    assert (one["colour"].value != other["colour"].value).any()
    assert (one["colour"].value[~mask] == other["colour"].value[~mask]).all()


@pytest.mark.parametrize("sides", [0.5, (0.0, 0.0, 1.0, 1.0)])
def test_outpainting_continues_a_picture_and_its_map_beyond_their_edges(model, sides):
    sample = {"colour": picture(1, 16, 16), "height": heights(), "words": "abc"}
    left, top, *_ = [sides] * 4 if isinstance(sides, float) else sides
    out = model.edit(sample, outpaint=sides, halo=0, seed=2)
    assert list(out) == ["colour", "height"]
    given = np.zeros((8, 8), bool)  # twice as large, then at the model's size
    given[round(4 * top) :, round(4 * left) :][:4, :4] = True
    for generated in out.values():
        assert (generated.given == given).all()
    small = np.asarray(Image.fromarray(sample["colour"]).resize((4, 4), Image.Resampling.BOX))
    assert (out["colour"].value[given] == small.reshape(-1, 3)).all()
    larger = np.pad(sample["colour"], [(0, 16), (0, 16), (0, 0)] if left == 0 else [(8, 8), (8, 8), (0, 0)], "edge")
    mask = np.pad(np.zeros((16, 16), bool), [(0, 16)] * 2 if left == 0 else [(8, 8)] * 2, constant_values=True)
    masked = model.edit({"colour": larger, "words": "abc"}, mask=mask, halo=0, seed=2)
    alone = model.edit({"colour": sample["colour"], "words": "abc"}, outpaint=sides, halo=0, seed=2)
    assert (masked["colour"].value == alone["colour"].value).all()


def test_what_is_kept_is_of_the_outpainted_picture(model):
    one, other = (
        model.edit({"colour": picture(), "height": heights() * k}, outpaint=0.5, keep="height", seed=1) for k in (1, 3)
    )
    assert list(one) == ["colour"]
    assert (one["colour"].value[one["colour"].given] == other["colour"].value[one["colour"].given]).all()
    assert (one["colour"].value != other["colour"].value).any()


def test_a_mask_may_be_a_file_a_picture_or_numbers(model, tmp_path):
    mask, sample = corner(), {"colour": picture()}
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    grey.save(tmp_path / "mask.png")
    wanted = model.edit(sample, mask=mask)["colour"].value
    for given in (grey, tmp_path / "mask.png", str(tmp_path / "mask.png"), mask.astype(np.uint8), mask * 255):
        assert (model.edit(sample, mask=given)["colour"].value == wanted).all()


def test_a_mask_may_have_soft_edges(model):
    sample, soft = {"colour": picture()}, np.tile(np.linspace(0, 255, 8), (8, 1)).astype(np.uint8)
    wanted = model.edit(sample, mask=soft >= 128)["colour"].value
    assert (model.edit(sample, mask=Image.fromarray(soft))["colour"].value == wanted).all()


@pytest.mark.parametrize(
    ("sample", "edit", "said"),
    [
        ({"colour": picture()}, {}, "give a mask, or something to change"),
        ({"colour": picture()}, {"mask": np.zeros((8, 8), bool)}, "mask marks nothing; make the part"),
        (
            {"colour": picture()},
            {"mask": np.ones((5, 8), bool)},
            r"has shape \(5, 8\); .*; resize it to \(8, 8\)",
        ),
        ({"colour": picture()}, {"mask": Image.new("L", (8, 8), 128)}, "mask is mostly grey or coloured"),
        (
            {"colour": picture()},
            {"mask": Image.new("RGB", (8, 8), (255, 250, 0))},
            "white where the edit is",
        ),
        ({"colour": picture()}, {"mask": np.ones((8, 8, 3), bool)}, r"a bool array \(H, W\).*given: bool \(8, 8, 3\)"),
        ({"colour": picture()}, {"mask": np.arange(64).reshape(8, 8)}, "given: int64"),
        ({"colour": picture()}, {"mask": [[True]]}, "given: a list"),
        ({"colour": picture()}, {"mask": "absent.png"}, "mask: no such file: absent.png"),
        ({"colour": picture(0, 8, 16)}, {"mask": np.pad(corner(), ((0, 0), (0, 8)))}, "the picture's centre"),
        ({"colour": picture()}, {"outpaint": 0}, "outpaint: a share of the picture's size above 0 and at most 4"),
        ({"colour": picture()}, {"outpaint": [0, 0, 0, 0]}, "not all 0; given"),
        ({"colour": picture()}, {"outpaint": [0.5, 0.5]}, "or four of them"),
        ({"colour": picture()}, {"outpaint": math.nan}, "given: nan"),
        ({"colour": picture()}, {"outpaint": 0.01}, "outpaint 0.01 adds no pixel to 8 x 8; raise it"),
        ({"colour": picture()}, {"outpaint": 0.5, "mask": corner()}, "mask and outpaint are alternatives"),
        ({"colour": Ids(range(16))}, {"outpaint": 0.5}, "outpaint takes values, not token ids"),
        ({"words": "abc"}, {"outpaint": 0.5}, "outpaint: the sample has words: no grid"),
        ({"words": "abc"}, {"mask": corner()}, "mask: the sample has words: no grid"),
        ({"colour": picture()}, {"mask": corner(), "keep": "colour"}, "nothing that is not kept or changed"),
        ({"colour": Condition(picture())}, {"mask": corner()}, "'colour': give the value"),
        ({"colour": picture()}, {"mask": corner(), "halo": -1}, "halo is a number of tokens"),
        ({"colour": picture()}, {"change": {"words": "a"}, "halo": 1}, "halo has no effect without a mask"),
        ({"colour": picture()}, {"change": {"colour": picture()}}, "no modality of the sample is left"),
        ({"colour": picture()}, {"change": {"words": "a"}, "keep": ["height"]}, "keep: the sample has no 'height'"),
        ({"colour": picture()}, {"change": {"colour": picture()}, "keep": ["colour"]}, "is in both change and keep"),
        ({"colour@pixels": picture()}, {"change": {"words": "a"}}, "'colour@pixels' is input only"),
        ({"colour": picture()}, {"change": {"word": "a"}}, "no modality 'word'"),
        ({"colour": picture()}, {"change": "a"}, "change is a mapping {name: value}"),
    ],
)
def test_an_edit_that_cannot_be_is_told_in_one_line(model, sample, edit, said):
    with pytest.raises(ValueError, match=said) as error:
        model.edit(sample, **edit)
    assert "\n" not in str(error.value)


def test_the_command_writes_what_it_edits_and_leaves_the_rest_of_the_picture(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    Image.fromarray(corner()).save(tmp_path / "mask.png")
    common = {"given": [f"colour={tmp_path / 'photo.png'}"], "device": "cpu", "change": ["words=abc"], "seed": 4}
    command(str(tmp_path / "model"), mask=tmp_path / "mask.png", out=tmp_path / "out", **common)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["colour.png", "colour.view.png", "sheet.png"]
    value = np.asarray(Image.open(tmp_path / "out/colour.png"))
    wanted = model.edit({"colour": picture()}, mask=corner(), change={"words": "abc"}, seed=4)["colour"].value
    assert (value == wanted).all()
    assert (value[~corner()] == picture()[~corner()]).all()
    command(str(tmp_path / "model"), outpaint="0,0,1,1", out=tmp_path / "wide", animate=tmp_path / "a.gif", **common)
    wide = model.edit({"colour": picture()}, outpaint=(0, 0, 1, 1), change={"words": "abc"}, seed=4)["colour"].value
    assert (np.asarray(Image.open(tmp_path / "wide/colour.png")) == wide).all()
    assert Image.open(tmp_path / "a.gif").n_frames > 2
    with pytest.raises(ValueError, match="keep: the sample has no 'height'"):
        command(str(tmp_path / "model"), keep=["height"], out=tmp_path / "none", **common)
    assert not list((tmp_path / "none").glob("*"))

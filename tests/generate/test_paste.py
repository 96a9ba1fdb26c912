"""Edits pasted into originals that are larger than the model sees."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourm_engine.cli.edit import edit as command
from fourm_engine.generate.input_types import Ids
from fourm_engine.generate.paste import Original
from fourm_engine.generate.result import Generated
from fourm_plugins.view import View
from tests.generate.toys import heights, picture


def square(rows: int, columns: int) -> np.ndarray:
    """A mask of the middle."""
    mask = np.zeros((rows, columns), np.bool_)
    mask[rows // 3 : rows // 2, columns // 3 : columns // 2 + 1] = True
    return mask


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (4, 5), (13, 21), (31, 17), (60, 80)])
def test_a_pasted_edit_has_the_originals_size_and_pixels_outside_the_mask(model, rows, columns):
    given, mask = picture(1, rows, columns), square(rows, columns)
    small, out = (model.edit({"colour": given}, mask=mask, seed=3, paste=paste)["colour"] for paste in (False, True))
    assert (out.value.shape, out.value.dtype) == (given.shape, given.dtype)
    assert (out.value[~mask] == given[~mask]).all()
    assert (out.value[mask] != given[mask]).any()
    assert (out.given == ~mask).all()
    assert (out.tokens == small.tokens).all()


def test_the_pasted_part_is_what_was_generated_enlarged_and_moved_to_the_crop(model):
    made = np.zeros((8, 8, 3), np.uint8)
    made[2:4, 4:6] = 200
    given, mask = picture(1, 64, 96), np.zeros((64, 96), np.bool_)
    mask[10:40, 40:80] = True
    view = View.centre(source_aspect=96 / 64)
    original = Original.of("colour", given, ~mask, model.modalities["colour"], view)
    value = original.paste(Generated(model.modalities["colour"], np.zeros(16), made)).value
    # One generated pixel covers 8, after a margin of 16; bilinear, so edges are blurred over 4 on each side.
    assert (value[20:28, 52:60] == 200).all()
    assert (value[10:12, 40:80] == 0).all()
    assert (value[10:40, 68:80] == 0).all()
    assert 80 < value[16, 56, 0] < 120


def test_numbers_that_are_missing_stay_missing_and_reach_no_neighbour(model):
    made = np.ones((8, 8), np.float32)
    made[3, 3] = np.nan
    height = model.modalities["height"]
    original = Original.of("height", np.zeros((32, 32), np.float32), np.zeros((32, 32), bool), height, View())
    value = original.paste(Generated(height, np.zeros(16), made)).value
    assert np.isnan(value[12:16, 12:16]).all()
    assert np.isnan(value).sum() == 16
    np.testing.assert_allclose(value[np.isfinite(value)], 1, atol=1e-5)


def test_maps_samples_and_their_spread_are_pasted_too(model):
    sample = {"height": np.kron(heights(), np.ones((3, 3), np.float32)), "colour": picture(1, 24, 24)}
    mask = square(24, 24)
    out = model.edit(sample, mask=mask, paste=True, temperature=1.0, n_samples=3, reduce={"height": "mean"}, seed=1)
    for one in (out, *out.samples):
        for name, given in sample.items():
            assert (one[name].value[~mask] == given[~mask]).all()
    assert out["height"].spread.shape == (24, 24)
    assert (out["height"].spread[~mask] == 0).all()
    assert out["height"].spread[mask].any()


def test_a_mask_of_tokens_and_outpainting_are_pasted(model):
    given, tokens = picture(2, 20, 20), np.zeros((4, 4), bool)
    tokens[1, 2] = True
    out = model.edit({"colour": given}, mask=tokens, paste=True)["colour"]
    assert (~out.given == np.kron(tokens, np.ones((5, 5), bool))).all()
    wide = model.edit({"colour": given}, outpaint=0.25, paste=True)["colour"].value
    assert wide.shape == (30, 30, 3)
    assert (wide[5:25, 5:25] == given).all()


@pytest.mark.parametrize(
    ("sample", "edit", "said"),
    [
        ({"colour": picture(0, 16, 32)}, {"mask": np.ones((16, 32), bool)}, "rows 0 to 16, columns 8 to 24; mark less"),
        ({"colour": picture()}, {"change": {"words": "a"}}, "paste has no effect without a mask or outpaint"),
        (
            {"colour": picture(0, 16, 32)},
            {"mask": np.ones((32, 16), bool)},
            r"mask has shape \(32, 16\); the tokens .* \(16, 32\)",
        ),
        ({"colour": Ids(range(16))}, {"mask": np.eye(4, dtype=bool)}, "paste takes values, not token ids"),
    ],
)
def test_what_cannot_be_pasted_is_told_before_anything_runs(model, monkeypatch, sample, edit, said):
    monkeypatch.setattr(model.sampler, "run", None)
    with pytest.raises(ValueError, match=said) as error:
        model.edit(sample, paste=True, **edit)
    assert "\n" not in str(error.value)


def test_the_command_pastes(model, tmp_path):
    given, mask = picture(1, 30, 40), square(30, 40)
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(given).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    common = {"given": [f"colour={tmp_path / 'photo.png'}"], "device": "cpu", "seed": 4, "paste": True}
    command(str(tmp_path / "model"), mask=tmp_path / "mask.png", out=tmp_path / "out", **common)
    wanted = model.edit({"colour": given}, mask=mask, seed=4, paste=True)["colour"].value
    assert (np.asarray(Image.open(tmp_path / "out/colour.png")) == wanted).all()
    with pytest.raises(ValueError, match="--paste has no effect without --mask or --outpaint"):
        command(str(tmp_path / "model"), change=["words=a"], out=tmp_path / "none", **common)

"""Large pictures tile by tile: tiles agree on their seams, and the whole is what its tokens decode to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fourm_engine.generate.tiles import Tiling, generate_tiled
from tests.generate.toys import picture


def large(height, width):
    return np.tile(picture(3), (3, 3, 1))[:height, :width]


def test_tiles_agree_on_their_seams_and_what_they_decode_to_has_none(toys, monkeypatch):
    made, run = [], toys.generate_batch

    def noted(*words, **options):
        made.extend(results := run(*words, **options))
        return results

    monkeypatch.setattr(toys, "generate_batch", noted)
    whole = generate_tiled(toys, {"colour": large(14, 20)}, "height", overlap=1, steps=3, temperature=1.0)
    tokens = whole.tokens.reshape(7, 10)
    tiling = Tiling.of((7, 10), (4, 4), 1)
    corners = [tiling.corners[i] for wave in tiling.waves for i in wave]
    assert len(corners) == len(made) == 6
    for (row, column), result in zip(corners, made, strict=True):
        assert (tokens[row : row + 4, column : column + 4].reshape(-1) == result["height"].tokens).all()
    modality, tokenizer = toys.modalities["height"], toys.tokenizers["height"]
    for (row, column), result in zip(corners, made, strict=True):  # the toys decode each token by itself
        decoded = modality.denormalise(tokenizer.decode([result["height"].tokens])[0])
        part = whole.value[row * 2 : row * 2 + 8, column * 2 : column * 2 + 8]
        assert np.allclose(part, decoded[: part.shape[0], : part.shape[1]], atol=1e-4)
    assert whole.value.shape[:2] == (14, 20)


def test_tiles_that_are_computed_in_one_step_are_computed_apart_and_blended(toys):
    given = large(8, 12)
    whole = generate_tiled(toys, {"colour": given}, "height", overlap=2, batch_size=1).value
    left, right = (toys.generate({"colour": given[:, at : at + 8]}, "height")["height"].value for at in (0, 4))
    assert np.allclose(whole[:, :4], left[:, :4], atol=1e-4)
    assert np.allclose(whole[:, 8:], right[:, 4:], atol=1e-4)
    low, high = np.minimum(left[:, 4:], right[:, :4]), np.maximum(left[:, 4:], right[:, :4])
    assert ((low - 1e-4 <= whole[:, 4:8]) & (whole[:, 4:8] <= high + 1e-4)).all()


def test_each_tile_sees_its_part_of_the_picture_also_where_the_target_has_its_name(toys, monkeypatch):
    asked, run = [], toys.generate_batch

    def noted(requests, *words, **options):
        asked.extend(requests)
        return run(requests, *words, **options)

    monkeypatch.setattr(toys, "generate_batch", noted)
    generate_tiled(toys, {"colour": large(8, 12)}, "colour", overlap=1, temperature=1.0)
    pictures = [[given for given in one.values() if isinstance(given, np.ndarray)] for one in asked]
    assert [[picture.shape for picture in one] for one in pictures] == [[(8, 8, 3)], [(8, 8, 3)]]
    assert len(asked[1]) == 2


def test_tiles_cover_the_whole_and_those_of_one_wave_lie_apart():
    for whole, overlap in (((4, 4), 2), ((5, 4), 2), ((9, 13), 1), ((8, 12), 0), ((11, 6), 2)):
        tiling, seen = Tiling.of(whole, (4, 4), overlap), np.zeros(whole, int)
        for wave in tiling.waves:
            apart = np.zeros(whole, int)
            for row, column in (tiling.corners[i] for i in wave):
                apart[row : row + 4, column : column + 4] += 1
            assert apart.max() == 1
            seen += apart
        assert seen.min() == 1 if overlap == 0 else seen.min() >= 1
        starts = sorted({column for _, column in tiling.corners})
        assert all(b - a <= 4 - overlap for a, b in pairwise(starts))


@pytest.mark.parametrize("option", [{"n_samples": 2}, {"reduce": "mean"}, {"best": len}, {"explain": True}])
def test_options_of_several_samples_are_refused_before_anything_runs(toys, monkeypatch, option):
    monkeypatch.setattr(toys, "generate_batch", None)
    with pytest.raises(ValueError, match=f"^{next(iter(option))} is for generate; tiles are parts of one result$"):
        generate_tiled(toys, {"colour": large(14, 20)}, "height", **option)


@pytest.mark.parametrize("options", [{}, {"steps": 3, "temperature": 0}])
def test_equal_tiles_are_not_taken_for_several_samples_of_one_input(toys, options):
    plain = np.full((8, 16, 3), 90, np.uint8)
    whole = generate_tiled(toys, {"colour": plain}, "height", overlap=0, **options)
    tile = toys.generate({"colour": plain[:, :8]}, "height", **options)["height"]
    assert np.allclose(whole.value[:, :8], tile.value, atol=1e-4)


def test_one_tile_is_what_generate_makes(toys):
    one = generate_tiled(toys, {"colour": picture(), "words": "red"}, "height", steps=2, temperature=1.0, seed=5)
    same = toys.generate({"colour": picture(), "words": "red"}, "height", steps=2, temperature=1.0, seed=5)["height"]
    assert (one.tokens == same.tokens).all()
    assert np.allclose(one.value, same.value, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "target", "overlap", "message"),
    [
        ({"colour": large(6, 20)}, "height", 1, "6 x 20 pixels, less than one tile of 8 x 8"),
        ({"colour": large(9, 9)}, "height", 3, "overlap 3: expected 0 to 2"),
        ({"words": "red"}, "height", 1, "one picture or map of the alignment of 'height'; given: 0"),
        ({"colour": large(9, 9)}, "words", 1, "'words' is no picture or map .*; the model has colour"),
        ({"colour": large(9, 9)}, "heigth", 1, "'heigth' is no picture or map .*; did you mean 'height'?"),
    ],
)
def test_what_cannot_be_tiled_is_one_line(toys, inputs, target, overlap, message):
    with pytest.raises(ValueError, match=message):
        generate_tiled(toys, inputs, target, overlap=overlap)


def test_a_picture_that_its_modality_cannot_read_is_one_line(toys, monkeypatch):
    def value(self, given):
        return given.shape

    monkeypatch.setattr(type(toys.modalities["colour"]), "value", value)
    with pytest.raises(ValueError, match=r"input 'colour': .* is not a value of it \(.*no attribute 'shape'\)"):
        generate_tiled(toys, {"colour": 5}, "height")

"""A generation step by step, as an animated file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm_engine.evaluate.animation import MAX_FRAMES, RESULT_MS, STEP_MS, Steps, animate, animated
from tests.generate.toys import install_all, make_model, picture

GREY = 128


@pytest.fixture
def steps(tmp_path, monkeypatch):
    install_all(tmp_path / "site", monkeypatch)
    return Steps(make_model())


def recorded(watch, inputs, targets, **options):
    with watch.record():
        results = watch.model.generate(inputs, targets, seed=1, **options)
    return results, watch.frames(inputs, results, cell=64)


def grey_tokens(frame):
    """Of the 4 x 4 tokens of the first target's picture, which begins below the caption."""
    pixels = np.asarray(frame).astype(int)
    grey = (pixels == GREY).all(-1)
    return round(grey.sum() / 16 / 16)


def test_tokens_that_are_not_known_are_grey_and_become_fewer_until_the_result(steps):
    results, frames = recorded(steps, {}, "colour", steps=4, temperature=1.0)
    assert len(frames) == 5
    hidden = [grey_tokens(frame) for frame in frames]
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[0] > 8
    assert hidden[-2:] == [0, 0]
    assert steps.events["colour"][-1][0].tolist() == results["colour"].tokens.tolist()


def test_later_targets_come_beside_those_that_are_done(steps):
    _, frames = recorded(steps, {"words": "abc"}, ["colour", "height"], steps=3, temperature=1.0)
    assert len(frames) == 7
    assert len({frame.size for frame in frames}) == 1
    right = [np.asarray(frame)[24:, 2 * 72 + 24 :] for frame in frames]
    assert (right[2] == 255).all()
    assert not (right[3] == 255).all()


def test_a_sequence_has_a_frame_a_token_and_no_more_than_so_many(steps):
    results, frames = recorded(steps, {"colour": picture()}, "words", temperature=2.0)
    assert 2 <= len(frames) <= MAX_FRAMES + 1
    ids, known = steps.events["words"][-1]
    assert ids[known].tolist() == results["words"].tokens.tolist()


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.apng"])
def test_the_file_holds_each_frame_for_its_time_and_begins_again(steps, name):
    _, frames = recorded(steps, {}, "colour", steps=4, temperature=1.0)
    file = Image.open(io.BytesIO(animated(frames, Path(name))))
    assert (file.n_frames, file.size, file.info["loop"]) == (5, frames[0].size, 0)
    assert file.info["duration"] == STEP_MS
    file.seek(4)
    assert file.info["duration"] == RESULT_MS
    assert np.abs(np.asarray(file.convert("RGB")).astype(int) - np.asarray(frames[-1])).mean() < 4


def test_python_animates_what_it_generates_or_edits(steps, tmp_path):
    model, file = steps.model, tmp_path / "steps.gif"
    results = animate(file, model.generate, {"words": "abc"}, "colour", steps=4, temperature=1.0, seed=1)
    assert results["colour"].tokens.tolist() == steps_of(model, "abc")
    assert Image.open(file).n_frames == 5
    mask = np.arange(4) < np.full((4, 1), 2)
    animate(tmp_path / "edit.png", model.edit, {"colour": picture()}, mask=mask, halo=0, steps=2, temperature=1.0)
    assert Image.open(tmp_path / "edit.png").n_frames == 3
    with pytest.raises(ValueError, match=r"animate: give model\.generate or model\.edit"):
        animate(file, print, {})
    with pytest.raises(ValueError, match=r"x\.mp4: an animation is"):
        animate("x.mp4", model.generate, {})


def steps_of(model, text):
    return model.generate({"words": text}, "colour", steps=4, temperature=1.0, seed=1)["colour"].tokens.tolist()


def test_one_step_moves_nothing_and_other_files_are_refused(steps):
    with pytest.raises(ValueError, match=r"more than one step; raise steps"):
        recorded(steps, {"colour": picture()}, "height")
    with pytest.raises(ValueError, match=r"x\.mp4: an animation is a \.gif, or a \.png"):
        animated([], Path("x.mp4"))


def test_watching_changes_nothing_and_ends_with_its_block(steps):
    results, _ = recorded(steps, {}, "colour", steps=4, temperature=1.0)
    seen = {name: len(events) for name, events in steps.events.items()}
    again = steps.model.generate({}, "colour", seed=1, steps=4, temperature=1.0)
    assert again["colour"].tokens.tolist() == results["colour"].tokens.tolist()
    assert {name: len(events) for name, events in steps.events.items()} == seen

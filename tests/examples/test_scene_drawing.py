"""How `make demo-draw` is judged: what counts as drawn, and what as edited."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCENES = Path(__file__).parents[2] / "examples/scenes"
sys.path.insert(0, str(SCENES))

import drawing  # noqa: E402
import recogniser  # noqa: E402
from render import render_scene  # noqa: E402


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(0, index, split="val") for index in range(24)]


def test_the_truth_has_all_that_is_asked_for_and_another_scene_has_not(scenes):
    asked, maps = [drawing.things_of(scene) for scene in scenes], [recogniser.truth(scene) for scene in scenes]
    assert drawing.drawn_share(maps, asked) == 1
    assert drawing.named_share(maps, [drawing.request(things)["caption"] for things in asked]) > 0.9
    assert drawing.drawn_share([*maps[1:], maps[0]], asked) < 0.3
    assert drawing.drawn_share([np.zeros_like(m) for m in maps], asked) == 0


def test_an_edit_counts_if_it_did_what_it_says_and_left_the_others(scenes):
    edits = drawing.propose(scenes, 9)
    assert [edit.what for edit in edits] == list(drawing.EDITS) * 3
    with pytest.raises(ValueError, match="only 0 of 3 edits are possible in 1 scenes"):
        drawing.propose(scenes[1:2], 3)  # of one object
    for edit in edits:
        before = recogniser.truth(scenes[edit.scene])
        after = before.copy()
        for thing, value in ((edit.old, 0), *([(edit.new, edit.new.pair)] if edit.new else [])):
            x0, y0, x1, y1 = (round(v * 32) for v in thing.box)
            inside = np.zeros_like(before, bool)
            inside[y0:y1, x0:x1] = True
            for other in edit.others:
                a0, b0, a1, b1 = (round(v * 32) for v in other.box)
                inside[b0:b1, a0:a1] = False
            after[inside] = 1 + recogniser.PAIRS.index(value) if value else 0
        assert drawing.done(edit, before, before)[0] is False  # nothing changed
        assert drawing.done(edit, before, after) == (True, True)
        assert drawing.done(edit, before, np.zeros_like(before))[1] is False  # the others are lost
        assert edit.mask(64).any()


def test_the_request_says_kinds_by_boxes_and_colours_by_the_caption_from_left_to_right(scenes):
    things = drawing.things_of(max(scenes, key=lambda scene: len(scene.boxes)))
    request = drawing.request(things)
    assert [box["bbox"][0] + box["bbox"][2] for box in request["boxes"]] == sorted(t.box[0] + t.box[2] for t in things)
    assert drawing.colour_kind_pairs(request["caption"]).total() == len(things)


def test_the_recogniser_answers_for_each_cell():
    maps = recogniser.Recogniser().maps([np.zeros((64, 64, 3), np.uint8)] * 2)
    assert maps.shape == (2, 32, 32)
    assert torch.from_numpy(maps).max() <= len(recogniser.PAIRS)

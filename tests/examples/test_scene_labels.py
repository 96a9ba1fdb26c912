"""The labels of examples/scenes/labels.py are those of the worlds that the scenes were rendered from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "scenes"))

from labels import APART, labels
from render import render, render_scene

SCENES, SIZE = 24, 64


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled")
    render(out, train=SCENES, val=0, size=SIZE, seed=5)
    return out / "train"


def test_kinds_and_counts_are_the_worlds(split: Path) -> None:
    said = labels(split)
    scenes = {f"scene_{k:06d}": render_scene(5, k, size=SIZE) for k in range(SCENES)}
    assert said["kinds"] == {name: scene.world.bodies[scene.order[0]].kind for name, scene in scenes.items()}
    assert said["counts"] == {name: str(len(scene.world.bodies)) for name, scene in scenes.items()}


def test_orders_are_those_of_the_distances_to_the_cameras(split: Path) -> None:
    said, told = labels(split)["orders"], 0
    for k in range(SCENES):
        scene, name = render_scene(5, k, size=SIZE), f"scene_{k:06d}"
        if len(scene.order) < 2:
            assert name not in said
            continue
        bodies = [scene.world.bodies[index] for index in scene.order[:2]]
        across, metres = zip(*(middle(scene.world.camera, body) for body in bodies), strict=True)
        apart = abs(metres[0] - metres[1])
        if apart < APART / 2:  # centres and the surfaces that are seen differ by less
            assert name not in said
        if apart > 2 * APART:
            assert said[name] == ("left" if (across[0] < across[1]) == (metres[0] < metres[1]) else "right")
            told += 1
    assert told >= 5


def middle(camera, body) -> tuple[float, float]:
    """Where an object's centre is from left to right, and its depth in metres."""
    across, _, depth = camera.project(body.x, body.y, body.height / 2)
    return across, depth


def test_a_folder_without_scenes_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no \*\.tar; name a folder that examples/scenes/render.py wrote"):
        labels(tmp_path)

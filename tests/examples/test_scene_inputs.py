"""`examples/scenes/inputs.py` makes the files that the commands of the pages name, and keeps what is there."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCENES = ROOT / "examples/scenes"
sys.path.insert(0, str(SCENES))

import inputs  # noqa: E402


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return inputs.files()


@pytest.mark.parametrize("page", ["generation.md", "drawing.md", "super-resolution.md"])
def test_every_file_that_a_command_of_the_page_reads_is_made(made, page):
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    options = r"--(?:input|mask|lines|region) (?:[\w@]+=)?(\S*?\.\w+|\w+/)(?=\s)"
    read = {name for line in commands for name in re.findall(options, line)}
    assert read
    assert read <= made.keys() | {name.split("/")[0] + "/" for name in made}


def test_the_files_are_of_one_scene_with_a_cube_and_a_cone(made):
    picture = {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in made.items() if name.endswith(".png")}
    assert picture["large.png"].shape == (192, 192, 3)
    assert picture["photo.png"].shape == (64, 64, 3)
    boxes = {box["label"]: box["bbox"] for box in json.loads(made["boxes.json"])}
    assert boxes.keys() == {"cube", "cone"}
    assert boxes["cube"][2] <= boxes["cone"][0]
    x0, y0, x1, y1 = (round(64 * v) for v in boxes["cube"])
    assert picture["mask.png"][y0:y1, x0:x1].all()
    assert picture["mask.png"].astype(bool).sum() == (x1 - x0) * (y1 - y0)
    objects = picture["map.png"] > 1
    assert (picture["flat.png"][~objects] == picture["depth.png"][~objects]).all()
    assert (picture["flat.png"][objects] > picture["depth.png"][objects]).mean() > 0.9  # the ground behind them


def test_a_file_that_is_there_with_another_content_stays(tmp_path, monkeypatch):
    (tmp_path / "photo.png").write_bytes(b"mine")
    monkeypatch.setattr(sys, "argv", ["inputs.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"photo\.png exists, with another content; move it away"):
        inputs.main()
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert (tmp_path / "photo.png").read_bytes() == b"mine"


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/mine.png").write_bytes(b"mine")
    monkeypatch.setattr(sys, "argv", ["inputs.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"pictures holds mine\.png, too; move it away"):
        inputs.main()
    assert [path.name for path in tmp_path.rglob("*")] == ["pictures", "mine.png"]


def test_what_the_recipes_in_python_read_is_made_and_the_truth_is_in_metres(made):
    text = (ROOT / "docs/python.md").read_text()
    assert set(re.findall(r'(?<!save\()"(\w+\.(?:png|npy|json))"', text)) <= made.keys()
    truth = np.load(io.BytesIO(made["truth.npy"]))
    depth = np.asarray(Image.open(io.BytesIO(made["depth.png"])))
    np.testing.assert_allclose(truth, depth / 1000, atol=6e-4)


def test_the_name_of_a_users_own_data_in_the_readme_is_not_taken(made):
    folders = {name.split("/")[0] for name in made}
    assert not folders & set(re.findall(r"(\w+)/", (ROOT / "README.md").read_text()))

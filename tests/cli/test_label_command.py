"""`fourm label`: a folder of photographs becomes an aligned data set, with models stored as published ones are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourm_engine.cli.app import app
from fourm_engine.cli.options import by_target, settings_by_target
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.modalities import load_manager, load_modalities
from fourm_engine.recipes.config import load_config
from tests.configs import small, store
from tests.plugins import tiny

transformers = pytest.importorskip("transformers")
ALL = ["rgb", "depth", "normal", "semseg", "boxes", "caption"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "depth": tiny.save("depth", folder / "depth", depth_estimation_type="metric", max_depth=10),
        "semseg": tiny.save("segformer", folder / "semseg"),
        "caption": tiny.save("blip", folder / "caption"),
    }


@pytest.fixture
def photographs(tmp_path):
    """A config, and a folder with three photographs."""
    rng = np.random.default_rng(0)
    for name in ("one", "trip/two", "trip/three"):
        path = tmp_path / f"photos/rgb/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    grid = {"image_size": 32, "patch_size": 8}
    settings = dict.fromkeys(("rgb", "depth", "normal"), grid)
    settings["semseg"] = grid | {"classes": ["wall", "floor", "sky"]}
    raw = small(tmp_path, settings, modalities={"select": ALL}, data={"train": str(tmp_path / "photos")})
    return store(tmp_path / "config.yaml", raw)


def fourm(*arguments):
    app([str(argument) for argument in arguments], standalone_mode=False)


def contents(photographs):
    return {
        path.relative_to(photographs.parent): path.read_bytes()
        for path in sorted((photographs.parent / "photos").rglob("*"))
        if path.is_file()
    }


def test_photographs_become_an_aligned_data_set_in_one_command(photographs, models, capsys, monkeypatch):
    command = ["label", photographs, "--from", "rgb", "--to", "boxes,normal,depth,semseg,caption"]
    for target, folder in models.items():
        command += ["--model", f"{target}={folder}"]
    command += ["--option", "semseg.mapping={sky-other: sky}", "--option", "boxes.exclude=[sky]"]
    command += ["--option", "caption.max_new_tokens=6", "--option", "normal.fov=70", "--option", "boxes.min_area=0.0"]
    # Two processes, one after the other: each makes all targets of its share.
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        fourm(*command)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    said = capsys.readouterr().out
    assert "3 samples of normal made from depth" in said
    assert "3 samples of boxes made from semseg" in said

    settings = load_config(photographs)
    modalities = load_modalities(settings.modalities, load_manager(settings.modalities))
    data = AlignedData(settings.data.train, modalities)
    assert data.names == ["one", "trip/three", "trip/two"]
    assert set(data.counts.values()) == {3}
    for name in data.names:
        assert data.value(name, "depth").shape == data.value(name, "normal").shape[:2] == (40, 60)
        assert {box.label for box in data.value(name, "boxes")} <= {"wall", "floor"}

    before = contents(photographs)
    fourm(*command)  # everything is there
    assert "3 were there" in capsys.readouterr().out
    assert contents(photographs) == before
    (photographs.parent / "photos/normal/trip/two.png").unlink()
    fourm(*command)
    assert contents(photographs) == before


def test_what_cannot_be_labelled_is_one_line_before_anything_is_written(photographs, models):
    before = contents(photographs)
    for arguments, message in (
        (["--to", "normal"], "normal is made from depth, not rgb"),
        (["--to", "depth"], "depth needs a depth model"),
        (["--to", "depth", "--model", models["semseg"]], "cannot be used as a depth model"),
        (["--to", "depth,semseg", "--model", models["depth"]], "expected TARGET=NAME"),
        (["--to", "depth", "--option", "normal.fov=3"], "normal is not among --to"),
        (["--to", "depth", "--model", models["depth"], "--out", photographs.parent / "photos"], "the data's folder"),
    ):
        with pytest.raises(ValueError, match=message):
            fourm("label", photographs, "--from", "rgb", *arguments)
    assert contents(photographs) == before


def test_models_and_options_are_given_by_target():
    assert by_target("--model", ["some/model"], ["a"]) == {"a": "some/model"}
    assert by_target("--model", ["a=x", "b=y=z"], ["a", "b"]) == {"a": "x", "b": "y=z"}
    assert settings_by_target("--option", ["a.k=0.5", "a.m={x: y}", "b.k=text"], ["a", "b"]) == {
        "a": {"k": 0.5, "m": {"x": "y"}},
        "b": {"k": "text"},
    }
    for wrong in ("a", "a=1", "a.=1", ".k=1"):
        with pytest.raises(ValueError, match=r"expected TARGET\.KEY=VALUE"):
            settings_by_target("--option", [wrong], ["a"])
    with pytest.raises(ValueError, match="given twice"):
        by_target("--model", ["a=x", "a=y"], ["a"])

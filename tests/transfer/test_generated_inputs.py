"""Inputs that a model generates: made for a data set, learned from by a head, and predicted from."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fourm_engine as fm
from tests.configs import store
from tests.generate.toys import PLUGINS, install, make_model, picture
from tests.running import fourm, refused
from tests.transfer.heads import run, scores

TRAIN = {"batch_size": 4, "steps": 6, "lr": 3e-3, "device": "cpu", "threads": 1}
MAKE = ("--input", "colour", "--target", "height", "--with-inputs", "--device", "cpu")


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A folder with the toys installed: an exported `model`; `train` and `val`, wide pictures alone; `made/train` and
    `made/val` with heights that the model generates; `labels.json`; and the run `head` of pictures and heights."""
    folder = tmp_path_factory.mktemp("generated")
    install(folder / "site", list(PLUGINS))
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder / "site"))
        model = make_model()
        model.save_pretrained(folder / "model")
        for part, first in (("train", 0), ("val", 8)):
            for i in range(first, first + 8):
                path = folder / part / f"colour/{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(model.modalities["colour"].write(picture(i, 8, 12))["png"])
            made = folder / "made" / part
            fourm("generate", folder / "model", "--data", folder / part, *MAKE, "--out", made)
        (folder / "labels.json").write_text(json.dumps({f"{i:02}": "even" if i % 2 == 0 else "odd" for i in range(16)}))
        head(folder, "head")
    return folder


@pytest.fixture(autouse=True)
def _toys(walked, monkeypatch):
    monkeypatch.syspath_prepend(str(walked / "site"))


def head(folder: Path, name: str, *overrides: str) -> Path:
    """The run of a head on pictures and generated heights."""
    raw = {
        "run": str(folder / name),
        "finetune": {"source": str(folder / "model")},
        "modalities": {"select": ["colour@pixels", "height"]},
        "data": {"train": str(folder / "made/train"), "val": str(folder / "made/val")},
        "task": {"kind": "classification", "labels": str(folder / "labels.json")},
        "train": TRAIN,
    }
    return run(store(folder / f"{name}.yaml", raw), *overrides)


def flip(file: Path) -> None:
    """Turn a map of heights upside down."""
    file.write_bytes((-np.frombuffer(file.read_bytes(), np.float32)).tobytes())


def table(path: Path) -> dict[str, dict[str, float]]:
    rows = list(csv.DictReader(path.open()))
    return {name: {r["label"]: float(r["probability"]) for r in rows if r["name"] == name} for name in names(rows)}


def names(rows):
    return dict.fromkeys(row["name"] for row in rows)


def test_a_head_learns_from_what_was_generated_and_sees_every_pixel_of_it(walked, tmp_path):
    """The held-out metrics change with the generated files, and only where they are inputs."""
    other = shutil.copytree(walked / "made/val", tmp_path / "val")
    for file in (other / "height").iterdir():
        flip(file)
    assert scores(walked / "head")["cross-entropy"] > 0
    flipped = scores(head(walked, "flipped", f"data.val={other}"))
    assert flipped["cross-entropy"] != scores(walked / "head")["cross-entropy"]
    alone = "modalities.select=[colour@pixels]"
    one, two = head(walked, "alone", alone), head(walked, "alone-flipped", alone, f"data.val={other}")
    assert scores(one) == scores(two)


def test_a_data_set_is_predicted_as_each_sample_alone(walked, tmp_path):
    said = fourm("predict", walked / "head", "--data", walked / "made/val", "--out", tmp_path, "-k", 2)
    assert "8 samples of colour@pixels, height" in said
    assert "predicts without" not in said
    told = table(tmp_path / "classes.csv")
    assert list(told) == [f"{i:02}" for i in range(8, 16)]
    model = fm.load_head(walked / "head", device="cpu")
    for name, probabilities in told.items():
        given = {"colour": walked / f"made/val/colour/{name}.png", "height": walked / f"made/val/height/{name}.npy"}
        assert model.predict(given).probabilities == pytest.approx(probabilities, abs=1e-5)


def test_a_second_call_predicts_what_is_new_or_changed_and_the_table_has_all(walked, tmp_path):
    data = shutil.copytree(walked / "made/val", tmp_path / "data")
    command = ("predict", walked / "head", "--data", data, "--out", tmp_path / "out")
    assert "8 samples of classes made" in fourm(*command)
    first = table(tmp_path / "out/classes.csv")
    flip(data / "height/09.npy")
    for kind in ("colour/08.png", "height/08.npy"):
        shutil.copy(data / kind, (data / kind).with_stem("new"))
    (data / "colour/10.png").touch()  # the same content
    assert "2 samples of classes made, 7 were there" in fourm(*command)
    second = table(tmp_path / "out/classes.csv")
    assert second["new"] == first["08"]
    assert {name for name in first if first[name] != second[name]} == {"09"}
    assert "-k was 5, is 1; restore it" in refused(*command, "-k", 1)


def test_inputs_that_are_missing_are_named(walked, tmp_path, caplog):
    given = ("--input", f"colour={walked / 'val/colour/08.png'}")
    assert "even" in fourm("predict", walked / "head", *given)
    assert "predicts without height, which training gave beside colour@pixels" in caplog.text
    said = fourm("predict", walked / "head", "--input", f"colour={walked / 'val/colour'}", "--out", tmp_path / "out")
    assert "8 samples of colour" in said
    assert "no sample has colour@pixels and height" in refused(
        "predict", walked / "head", "--data", walked / "val", "--out", tmp_path / "all"
    )
    assert "--out is missing" in refused("predict", walked / "head", "--data", walked / "val")
    assert "--split is for many samples" in refused("predict", walked / "head", *given, "--split", "val")


def test_a_target_of_the_data_is_written_through_the_crop_of_the_inputs_and_not_shown(walked, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(walked / "val", data)
    (data / "words").mkdir()
    for i in range(8, 16):
        (data / f"words/{i:02}.txt").write_text("abc")
    (data / "splits.json").write_text('{"val": ["08"]}')
    words = ("generate", walked / "model", "--data", data, "--input", "words", "--target", "height", "--device", "cpu")
    fourm(*words, "--with", "colour", "--out", tmp_path / "with")
    fourm(*words, "--out", tmp_path / "without")
    crop = fm.FourM.from_pretrained(walked / "model").modalities["colour"].read
    for i in range(8, 16):
        one, other = ((tmp_path / out / f"height/{i:02}.npy").read_bytes() for out in ("with", "without"))
        assert one == other
        seen = crop({"png": (tmp_path / f"with/colour/{i:02}.png").read_bytes()})
        np.testing.assert_array_equal(seen, picture(i, 8, 12)[:, 2:10])
    assert not (tmp_path / "without/colour").exists()
    assert not (tmp_path / "with/words").exists()
    (data / "colour/09.png").write_bytes((data / "colour/08.png").read_bytes())
    assert "1 sample of height made, 7 were there" in fourm(*words, "--with", "colour", "--out", tmp_path / "with")
    fourm(*words, "--with", "colour", "--with-inputs", "--out", tmp_path / "whole")
    assert (tmp_path / "whole/words/08.txt").read_text() == "abc"
    assert (tmp_path / "whole/splits.json").read_text() == '{"val": ["08"]}'
    assert "'height' is both given and a target" in refused(*words, "--with", "height", "--out", tmp_path / "no")
    assert "--with words: is an input" in refused(*words, "--with", "words", "--out", tmp_path / "no")

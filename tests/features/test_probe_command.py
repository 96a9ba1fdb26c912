"""`fourm probe`: classes read from features, of a folder of classes or of a data set with labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fourm_engine.features.encoder import Encoder
from fourm_engine.features.labels import read_labels
from fourm_engine.recipes import probe as recipe
from tests.running import fourm, refused, silent

CLASSES = {"dark": 40, "bright": 215}


@pytest.fixture
def run(tmp_path, model):
    """A run over the toys; `photos/<class>` has pictures that differ in brightness, `data` the same as a data set."""
    model.save_pretrained(tmp_path / "run/model")
    rng = np.random.default_rng(0)
    (tmp_path / "data/colour").mkdir(parents=True)
    for name, level in CLASSES.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            value = np.clip(level + rng.normal(0, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
            content = model.modalities["colour"].write(value)["png"]
            (tmp_path / f"photos/{name}/{i}.png").write_bytes(content)
            (tmp_path / f"data/colour/{name}{i}.png").write_bytes(content)
    return tmp_path / "run"


def probe(run, folder="photos", **options):
    options = {"probes": ["knn", "linear"], "seeds": 2, "shots": [1], "print_fn": silent, **options}
    return recipe.probe(run, run.parent / folder, ["colour"], run.parent / "out", **options)


def test_all_probes_tell_the_classes_and_the_encoder_keeps_every_bit(run, monkeypatch):
    seen = []

    def kept(*given, **options):
        seen.append(network := loaded(*given, **options))
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return network

    loaded = recipe.encoder
    monkeypatch.setattr(recipe, "encoder", kept)
    result = probe(run, probes=recipe.PROBES, shots=[1, 3], epochs=6, batch_size=8)
    assert {name: one["top1"] for name, one in result["probes"].items()} == {"knn": 1, "linear": 1, "attentive": 1}
    assert (result["train"], result["val"], result["chance"]) == (16, 4, 0.5)
    assert [one["shots"] for one in result["few_shot"]] == [1, 3]
    for one in result["few_shot"]:
        assert one["mean"] == pytest.approx(np.mean(one["top1"]))
        assert one["std"] == pytest.approx(np.std(one["top1"], ddof=1))
    assert json.loads((run.parent / "out/probe.json").read_text()) == result
    network, before = seen
    assert all((tensor == before[name]).all() for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_features_are_computed_once_and_again_when_a_file_has_changed(run, monkeypatch):
    first = probe(run)
    counted = []
    forward = Encoder.forward_features
    monkeypatch.setattr(Encoder, "forward_features", lambda self, x: counted.append(len(x)) or forward(self, x))
    assert probe(run) == first
    assert not counted
    picture = run.parent / "photos/dark/3.png"
    picture.write_bytes((run.parent / "photos/bright/3.png").read_bytes() + b"\0")
    assert probe(run) != first
    assert sum(counted) == 20
    counted.clear()
    for path in (run.parent / "out/features").glob("*/pooled"):
        path.write_bytes(path.read_bytes()[:100])
    probe(run)  # a damaged cache is no cache
    assert sum(counted) == 20
    counted.clear()
    for path in (run.parent / "out/features").glob("*/pooled"):
        np.full(path.stat().st_size // 4, np.nan, np.float32).tofile(path)
    probe(run)
    assert sum(counted) == 20


def test_validation_folders_are_held_out_and_labels_decide(run):
    (run.parent / "split").mkdir()
    (run.parent / "photos").rename(run.parent / "split/train")
    held = run.parent / "split/val/dark"
    held.mkdir(parents=True)
    for i in range(3):  # of the other class: so that nothing can be right
        (held / f"{i}.png").write_bytes((run.parent / f"split/train/bright/{i}.png").read_bytes())
    result = probe(run, "split")
    assert (result["train"], result["val"]) == (20, 3)
    assert {one["top1"] for one in result["probes"].values()} == {0.0}
    labels = {f"{name}{i}": name for name in CLASSES for i in range(10)}
    (run.parent / "labels.json").write_text(json.dumps(labels))
    by_json = probe(run, "data", labels=run.parent / "labels.json")
    assert by_json["probes"]["linear"]["top1"] == 1.0
    lines = [f"{name},{label}" for name, label in labels.items()]
    (run.parent / "labels.csv").write_text("\n".join(["sample,class", *lines]))
    assert probe(run, "data", labels=run.parent / "labels.csv")["probes"] == by_json["probes"]
    # Of two data sets with samples of one name, each has its own labels.
    swapped = {name: next(c for c in CLASSES if c != label) for name, label in labels.items()}
    (run.parent / "swapped.json").write_text(json.dumps(swapped))
    own = {"val": run.parent / "data", "labels": run.parent / "labels.json"}
    twice = probe(run, "data", **own, val_labels=run.parent / "swapped.json", probes=["linear"])
    assert (twice["val"], twice["probes"]["linear"]["top1"]) == (20, 0.0)
    with pytest.raises(
        ValueError, match=r"is a sample of .* and of .*; give the classes of the latter as --val-labels"
    ):
        probe(run, "data", **own)
    # Labels that have nothing to do with the pictures cannot be read from them.
    odd = {name: str(i % 2) for i, name in enumerate(labels)}
    (run.parent / "labels.json").write_text(json.dumps(odd))
    assert probe(run, "data", labels=run.parent / "labels.json", share=0.5)["probes"]["linear"]["top1"] < 0.9


def test_what_cannot_be_probed_is_one_line(run):
    root = run.parent
    (root / "one/class").mkdir(parents=True)
    for i in range(2):
        (root / f"one/class/{i}.png").write_bytes((root / f"photos/dark/{i}.png").read_bytes())
        (root / f"one/class{i}.png").write_bytes((root / f"photos/dark/{i}.png").read_bytes())
    (root / "three.csv").write_text("a,b,c")
    (root / "other.json").write_text('{"elsewhere": 1}')
    (root / "twice.csv").write_text("dark1,a\ndark1,b")

    def told(message, *words):
        assert message in refused("probe", run, *words, "--out", root / "bad")
        assert not (root / "bad/probe.json").exists()

    photos, data = [root / "photos", "--input", "colour"], [root / "data", "--input", "colour"]
    told("--probe 'knnn'", *photos, "--probe", "knnn")
    told("--seed 9223372036854775808: not in [0, 2^63)", *photos, "--seed", 1 << 63)
    told("--shots 9: class 'bright' has 8 training samples; lower it", *photos, "--shots", 9, "--probe", "knn")
    told("lies in no class", root / "one", "--input", "colour")
    told("all training samples have the class '1'", *data, "--labels", _labels(root, {"dark1": 1, "dark2": 1}))
    told("a folder of classes has one modality", *photos, "--input", "words")
    told("line 1 has 3 columns", *data, "--labels", root / "three.csv")
    told("none of the samples", *data, "--labels", root / "other.json")
    told("line 2: 'dark1' is of class 'a'", *data, "--labels", root / "twice.csv")
    told("cannot be read", *data, "--labels", root / "nowhere.csv")
    (root / "long.csv").write_text(f'dark1,a\n"{"x" * 200_000}",a\n')
    told("long.csv: line 2: field larger than field limit (131072); correct it", *data, "--labels", root / "long.csv")


def test_a_table_of_labels_may_begin_with_a_byte_order_mark(tmp_path):
    for name, text in (("a.csv", "dark1,a\n"), ("a.json", '{"dark1": "a"}')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert read_labels(tmp_path / name) == {"dark1": "a"}


def _labels(root, table):
    (root / "table.json").write_text(json.dumps(table))
    return root / "table.json"


def test_the_command_prints_a_row_a_probe(run, capsys):
    words = ["--input", "colour", "--out", run.parent / "out", "--probe", "knn", "--shots", 1, "--seeds", 2]
    said = fourm("probe", run, run.parent / "photos", *words)
    assert all(line in said for line in ("knn", "linear, 1 a class", "most frequent class", "±"))

"""Classes of samples are learned from folders and files of labels; what is frozen stays; no answer is told."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import fourm_engine as fm
from fourm_engine.cli.app import app
from fourm_engine.transfer.classification import Classification
from fourm_engine.transfer.config import ClassificationConfig
from fourm_engine.transfer.labels import check_known, classes_of, of_column, of_file, only_known
from tests.running import fourm, refused
from tests.transfer.heads import COLOURS, config, picture, run, scores, write

CLASSES = {"kind": "classification"}


@pytest.fixture(scope="module")
def trained(source, pictures, tmp_path_factory):
    path = config(tmp_path_factory.mktemp("trained"), source, pictures, CLASSES)
    fourm("finetune", path, "train.steps=30")
    return path.parent / "run"


def backbone(run) -> dict[str, torch.Tensor]:
    weights = load_file(run / "head/model.safetensors")
    return {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}


def test_a_class_for_each_folder_is_learned_and_told_with_its_probability(trained, pictures):
    assert scores(trained)["top-1"] == 1
    picture = pictures / "val/red/1.png"
    told = fm.load_head(trained, device="cpu").predict({"rgb": picture})
    assert next(iter(told.probabilities)) == "red"
    assert set(told.probabilities) == set(COLOURS)
    assert sum(told.probabilities.values()) == pytest.approx(1)
    lines = [line.split() for line in fourm("predict", trained, "--input", f"rgb={picture}", "-k", 2).splitlines()]
    assert [name for _, name in lines] == list(told.probabilities)[:2]
    assert float(lines[0][0]) == pytest.approx(told.probabilities["red"], abs=1e-3)


def test_held_out_labels_are_measured_against_and_never_shown(source, pictures, tmp_path):
    """Of a set whose held-out folders are named wrongly nothing is right: an answer that is told would be."""
    data = tmp_path / "data"
    shutil.copytree(pictures / "train", data / "train")
    wrong = {"red": "green", "green": "blue", "blue": "red"}
    for name, other in wrong.items():
        shutil.copytree(pictures / "val" / name, data / "val" / other)
    assert scores(run(config(tmp_path, source, data, CLASSES), "train.steps=30"))["top-1"] == 0


def test_a_frozen_encoder_keeps_every_bit_and_a_free_one_learns(source, pictures, trained, tmp_path):
    before = load_file(source / "model/model.safetensors")
    sections = {"finetune": {"freeze": ["*"]}}
    frozen = backbone(run(config(tmp_path, source, pictures, {**CLASSES, "head": "attentive"}, **sections)))
    free = backbone(trained)
    shared = [name for name in frozen if name in before and frozen[name].shape == before[name].shape]
    assert len(shared) >= 12
    assert all(torch.equal(frozen[name], before[name]) for name in shared)
    assert torch.equal(frozen["embedding.modality"], before["embedding.modality"][2:])  # caption, near, rgb@pixels
    moved = {name for name in shared if not torch.equal(free[name], before[name])}
    assert {"encoder.0.attn.qkv.weight", "encoder_norm.weight", "embedding.projections.rgb@pixels.weight"} <= moved
    assert not [name for name in frozen if name.startswith(("decoder", "heads", "context_proj"))]


def test_lora_trains_adapters_and_the_head_alone_and_merges_them(source, pictures, tmp_path):
    before = load_file(source / "model/model.safetensors")
    folder = run(config(tmp_path, source, pictures, CLASSES, finetune={"lora": {"rank": 2, "alpha": 4.0}}))
    after = backbone(folder)
    changed = {name for name, w in after.items() if name in before and w.shape == before[name].shape}
    changed = {name for name in changed if not torch.equal(after[name], before[name])}
    parts = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.fc3"}
    assert changed == {f"encoder.{i}.{part}.weight" for i in (0, 1) for part in parts}
    assert not any("parametrizations" in name for name in after)
    told = fm.load_head(folder, device="cpu").predict({"rgb@pixels": pictures / "val/blue/0.png"})
    assert len(told.probabilities) == 3


def test_a_run_that_is_continued_is_the_run_that_never_stopped(source, pictures, tmp_path):
    same = {"train": {"schedule": "constant", "steps": 6}}
    task = {**CLASSES, "mixup": 0.4, "drop_path": 0.3, "label_smoothing": 0.1}
    data = {"augment": True}
    whole = run(config(tmp_path / "whole", source, pictures, task, data=data, **same))
    parts = config(tmp_path / "parts", source, pictures, task, data=data, **same)
    run(parts, "train.steps=3")
    part = run(parts)
    a, b = (load_file(folder / "head/model.safetensors") for folder in (whole, part))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert "task.mixup was 0.4, is 0.2" in refused("finetune", parts, "task.mixup=0.2", "train.steps=8")


def test_the_encoder_of_a_trained_task_is_where_the_next_one_starts(source, pictures, trained, tmp_path):
    """As ImageNet-1k after ImageNet-21k."""
    sections = {"finetune": {"source": str(trained), "freeze": ["*"]}}
    folder = run(config(tmp_path, source, pictures, CLASSES, **sections))
    a, b = backbone(trained), backbone(folder)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert scores(folder)["top-1"] >= 2 / 3  # of features that have been learned


def test_several_labels_a_sample_are_learned_from_a_file(source, tmp_path):
    rows = ["name,label"]
    for i in range(12):
        there = [name for bit, name in enumerate(COLOURS) if (i % 7 + 1) >> bit & 1]
        stripes = [picture(COLOURS[name], i, (36, 36 // len(there))) for name in there]
        write(tmp_path / f"data/{i:02}.png", np.concatenate(stripes, axis=1))
        rows += [f"{i:02},{label}" for label in there]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    task = {**CLASSES, "several": True, "labels": str(tmp_path / "labels.csv")}
    data = {"train": str(tmp_path / "data"), "val": str(tmp_path / "data"), "held_out": 0.3}
    folder = run(config(tmp_path, source, tmp_path, task, data=data), "train.steps=40")
    told = fm.load_head(folder, device="cpu").predict({"rgb": tmp_path / "data/06.png"})  # all three
    assert set(told.probabilities) == set(COLOURS)
    assert min(told.probabilities.values()) > 0.5  # each by itself
    assert scores(folder)["mAP"] > 0.8
    assert str(tmp_path) not in (folder / "head/config.json").read_text()


COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}, {"id": 8, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": i, "category_id": c, "bbox": [x, 0, 1, 1]}
        for x, (i, c) in enumerate([(7, 3), (7, 3), (9, 3), (9, 1)])
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", "a.jpg,dog\nb.jpg,dog\nb.jpg,cat\nc.jpg,\n"),
        ("labels.json", json.dumps({"a": "dog", "b": ["dog", "cat"], "c": []})),
        ("instances_train2017.json", json.dumps(COCO)),
    ],
)
def test_labels_are_read_as_sets_have_them(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    found = of_file(tmp_path / file, ["a", "b", "c", "d"], several=True)
    assert found == {"a": ("dog",), "b": ("dog", "cat"), "c": ()}
    assert classes_of(found) == ("cat", "dog")
    with pytest.raises(ValueError, match=r"'b' has 2 labels \(dog, cat\); set task.several"):
        of_file(tmp_path / file, ["a", "b"], several=False)


def test_labels_of_a_column_are_text_numbers_or_lists_of_them_and_samples_may_have_none():
    names = ["a", "b", "c", "d"]
    labels = of_column({"a": "dog", "b": 3, "d": ["dog", "dog"], "x": "cat"}, names, "here", several=False)
    assert labels == {"a": ("dog",), "b": ("3",), "d": ("dog",)}
    with pytest.raises(ValueError, match=r"here: 'a' has 2 labels \(cat, dog\); set task.several"):
        of_column({"a": ["cat", "dog"]}, names, "here", several=False)
    assert of_column({"a": ["cat", "dog"], "b": []}, names, "here", several=True) == {"a": ("cat", "dog"), "b": ()}
    for wrong in (1.5, True, {"id": 3}, [None], b"x"):
        with pytest.raises(ValueError, match="here: 'b': expected a label or a list of them, not"):
            of_column({"b": wrong}, names, "here", several=True)
    with pytest.raises(ValueError, match="here: none of the samples, such as 'a', has a value there"):
        of_column({"x": "dog"}, names, "here", several=False)


def test_a_table_of_labels_that_is_no_csv_is_named_with_its_line(tmp_path):
    (tmp_path / "x.csv").write_text(f'a,dog\nb,"{"x" * 200_000}"\n')
    with pytest.raises(ValueError, match=r"x\.csv: line 2: field larger than field limit \(131072\); correct it"):
        of_file(tmp_path / "x.csv", ["a", "b"], several=True)


def test_a_picture_that_is_listed_twice_is_named_rather_than_merged(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(COCO | {"images": [*COCO["images"], {"id": 9, "file_name": "d.jpg"}]}))
    with pytest.raises(ValueError, match=r"x\.json: images\[3\] has the id of images\[1\], 9; remove one, or give it"):
        of_file(tmp_path / "x.json", ["a", "b"], several=True)


def test_measures_are_what_they_are_called():
    rng = np.random.default_rng(0)
    output, label = torch.tensor(rng.normal(size=(40, 9))), torch.tensor(rng.integers(0, 9, 40))
    task = Classification(ClassificationConfig(), [f"{i}" for i in range(9)])
    metrics = task.metrics()
    for part in (slice(0, 15), slice(15, 40)):
        metrics.update(output[part], {"label": label[part]}, [None] * 40)
    order = output.argsort(1, descending=True)
    found = metrics.scores(metrics.sums)
    assert found["top-1"] == pytest.approx(np.mean((order[:, 0] == label).numpy()))
    assert found["top-5"] == pytest.approx(np.mean((order[:, :5] == label[:, None]).any(1).numpy()))

    labels = torch.tensor(rng.random((40, 9)) < 0.3, dtype=torch.float32)
    several = Classification(ClassificationConfig(several=True, labels="x.csv"), [f"{i}" for i in range(9)])
    precision = several.metrics()
    precision.update(output, {"labels": labels}, [None] * 40)
    expected = []
    for k in range(9):
        hits = labels[output[:, k].argsort(descending=True), k].numpy()
        expected.append((hits.cumsum() / np.arange(1, 41))[hits > 0].mean())
    assert precision.scores(precision.sums)["mAP"] == pytest.approx(np.mean(expected), abs=0.02)


@pytest.mark.parametrize(
    ("task", "sections", "message"),
    [
        ({}, {}, "task.kind is None, not one of classification, segmentation, regression"),
        (
            {**CLASSES, "head": "convnext"},
            {},
            "convnext makes maps, and the task wants one vector a sample; use linear",
        ),
        ({**CLASSES, "head": "linaer"}, {}, "no installed plugin provides the head 'linaer'; did you mean 'linear'"),
        (
            {**CLASSES, "head_options": {"widht": 3}},
            {},
            "task.head=linear with {'widht': 3}: there is no option widht; there are: ",
        ),
        ({**CLASSES, "ignore": [0]}, {}, "task.ignore: unknown key; "),
        ({**CLASSES, "mixup": float("inf")}, {}, "task.mixup: must be a finite number"),
        ({**CLASSES, "mixpu": 1}, {}, "task.mixpu: unknown key; did you mean task.mixup?"),
        ({"kind": "segmentation", "target": "x", "ingore": []}, {}, "did you mean task.ignore?"),
        ({**CLASSES, "cutmix": -1}, {}, "task.cutmix: must be greater than or equal to 0"),
        ({"kind": "detection"}, {}, "task.labels: is missing"),
        ({**CLASSES, "rand_augment": [11, 0]}, {}, "task.rand_augment.0: must be less than or equal to 10"),
        (
            {**CLASSES, "rand_augment": [9, 0.5]},
            {"modalities": {"select": ["rgb@pixels", "near"]}},
            "task.rand_augment turns and moves pictures, and there are two inputs that must stay aligned",
        ),
        ({**CLASSES, "several": True}, {}, "several: a sample lies in one folder; name a file of labels"),
        ({**CLASSES, "labels": {"column": "label"}}, {}, "files have no column 'label'; name a file of labels (task.l"),
        ({**CLASSES, "labels": {"colum": "x"}}, {}, "task.labels.colum: unknown key; did you mean task.labels.column?"),
        ({**CLASSES, "labels": "no.csv"}, {}, "no.csv: labels cannot be read: No such file"),
        (CLASSES, {"modalities": {"select": ["depth"]}}, "does not know 'depth'; it knows caption, near, rgb@pixels"),
        (CLASSES, {"modalities": {"settings": {}}}, "set modalities.settings.rgb@pixels.source: ."),
        (CLASSES, {"data": {"tokens": "t"}}, "data.tokens: a task reads its inputs and targets from raw data"),
        (CLASSES, {"finetune": {"freeze": ["decoder"]}}, "finetune.freeze: no parameter is called 'decoder'"),
        ({**CLASSES, "drop_path": 0.1}, {"finetune": {"freeze": ["*"]}}, "drop_path is for an encoder that learns"),
        (CLASSES, {"train": {"keep_best": True}, "data": {"val": None}}, "keep_best needs held-out samples"),
        (CLASSES, {"masking": {"input_tokens": 3}}, "masking"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(source, pictures, tmp_path, task, sections, message):
    done = CliRunner().invoke(app, ["finetune", str(config(tmp_path, source, pictures, task, **sections))])
    assert done.exit_code == 1
    assert message in " ".join(str(done.exception or done.output).split())
    assert not (tmp_path / "run/head").exists()


def test_a_class_that_is_held_out_whole_by_chance_is_left_out_with_a_line(caplog):
    labels = {"a/1": ("a",), "b/1": ("b",), "c/7": ("c",)}
    assert only_known(labels, ["a", "b"]) == {"a/1": ("a",), "b/1": ("b",)}
    assert "1 sample is held out, such as c/7, of classes that no training sample has" in caplog.text
    with pytest.raises(ValueError, match=r"data\.val: sample 'c/7' is of class 'c', which no training sample has"):
        check_known(labels, ["a", "b"], "data.val")


def test_inputs_of_tokens_learn_with_their_rows_alone_and_take_their_tokenizer_along(source, pictures, tmp_path):
    """A sample is its words or its picture: what has only the other's input is answered, too."""
    data = tmp_path / "data"
    for part in ("train", "val"):
        shutil.copytree(pictures / part, data / part / "rgb")
        for name in COLOURS:
            for i in range(4):
                file = data / part / f"caption/{name}/{i}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"a {name} square")
    modalities = {"select": ["caption", "rgb@pixels"], "settings": {}}
    task = {**CLASSES, "modality_dropout": 0.4}
    folder = run(config(tmp_path, source, data, task, modalities=modalities), "train.steps=30")
    assert scores(folder)["top-1"] == 1
    model = fm.load_head(folder, device="cpu")
    assert list(model.tokenizers) == ["caption"]
    for sample in ({"caption": "a green square"}, {"rgb": pictures / "val/green/3.png"}):
        assert model.predict(sample).likeliest(1)[0][0] == "green"
    before, after = load_file(source / "model/model.safetensors"), backbone(folder)
    assert after["embedding.modality"].shape == (2, 32)  # "near" takes no part
    assert after["embedding.encoder_table"].shape == before["embedding.encoder_table"].shape

"""A task's run beyond `fourm predict`: its encoder for features and probes, its head in a file of another program."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

import fourm_engine as fm
from fourm_engine.recipes import embed as embedding
from fourm_engine.recipes.export import export
from tests.running import refused, silent
from tests.transfer.heads import (
    COLOURS,
    captioned,
    coco,
    config,
    detection,
    needs_torchvision,
    picture,
    regression,
    retrieval,
    run,
    segmentation,
)

FORMATS = [".pt2"] + [".onnx"] * (importlib.util.find_spec("onnxscript") is not None)


def outputs(path, x):
    """(outputs of the file, what it says of them)."""
    if path.suffix == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        facts = session.get_modelmeta().custom_metadata_map["fourm.json"]
        return session.run(["output"], {session.get_inputs()[0].name: x})[0], json.loads(facts)
    extra = {"fourm.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    return module(torch.from_numpy(x))[0].detach().numpy(), json.loads(extra["fourm.json"])


def normalised(model, shown):
    """What the file takes: as the plugin normalises it."""
    return np.asarray(model.inputs["rgb@pixels"].normalise(shown), np.float32)[None]


@pytest.fixture(scope="module")
def classifier(source, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("classifier")
    return run(config(out, source, pictures, {"kind": "classification", "head": "attentive"}))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_classifier_in_a_file_gives_the_probabilities_of_predict(classifier, tmp_path, suffix):
    path = tmp_path / f"classes{suffix}"
    facts = export(classifier, ["rgb"], path, format="onnx" if suffix == ".onnx" else "torch", print_fn=silent)
    assert facts.outputs == {"output": ["batch", 3]}
    shown = [picture(COLOURS[colour], 5, (32, 32)) for colour in ("red", "blue", "green")]
    model = fm.load_head(classifier, device="cpu")
    logits, said = outputs(path, np.concatenate([normalised(model, one) for one in shown]))
    assert said["task"]["classes"] == ["blue", "green", "red"]
    shares = torch.from_numpy(logits).double().softmax(1).numpy()
    for one, row in zip(shown, shares, strict=True):
        expected = model.predict({"rgb": one}).probabilities
        np.testing.assert_allclose(row, [expected[name] for name in said["task"]["classes"]], atol=1e-4)


@pytest.mark.parametrize(
    ("head", "options"), [("unet", {"width": 4, "levels": 2}), ("convnext", {"width": 8, "detail": 4, "upsample": 2})]
)
def test_maps_in_a_file_are_those_of_predict(source, nyu, tmp_path, head, options):
    path = regression(tmp_path, source, nyu, task={"head": head, "head_options": options})
    trained = run(path, "train.steps=2")
    export(trained, ["rgb"], tmp_path / "depth.pt2", format="torch", print_fn=silent)
    shown = picture(COLOURS["red"], 5, (32, 32))
    model = fm.load_head(trained, device="cpu")
    output, said = outputs(tmp_path / "depth.pt2", normalised(model, shown))
    assert output.shape == (1, 1, 32, 32)
    assert said["task"]["target"]
    metres = model.objective.modality.denormalise(output[0])
    np.testing.assert_allclose(metres, model.predict({"rgb": shown}).value, rtol=1e-3)


def test_a_segmentation_says_the_class_of_each_of_its_outputs(source, ade, tmp_path):
    trained = run(segmentation(tmp_path, source, ade), "train.steps=2")
    export(trained, ["rgb"], tmp_path / "classes.pt2", format="torch", print_fn=silent)
    shown = picture(COLOURS["red"], 5, (32, 32))
    model = fm.load_head(trained, device="cpu")
    output, said = outputs(tmp_path / "classes.pt2", normalised(model, shown))
    assert said["task"]["class_ids"] == [1, 2, 3]
    expected = model.predict({"rgb": shown}).value
    np.testing.assert_array_equal(np.array(said["task"]["class_ids"])[output[0].argmax(0)], expected)


def test_an_embedding_in_a_file_is_that_of_its_side(source, tmp_path):
    trained = run(retrieval(tmp_path, source, captioned(tmp_path / "pairs")), "train.steps=2")
    export(trained, ["rgb"], tmp_path / "rgb.pt2", format="torch", print_fn=silent)
    shown = picture(COLOURS["red"], 5, (32, 32))
    model = fm.load_head(trained, device="cpu")
    output, _ = outputs(tmp_path / "rgb.pt2", normalised(model, shown))
    expected = model.predict({"rgb": shown}).vector
    np.testing.assert_allclose(output[0], expected, atol=1e-4)
    out = ["--format", "torch", "--out", str(tmp_path / "both.pt2")]
    assert "of more than one side" in refused("export", trained, "--input", "rgb", "--input", "caption", *out)


def test_the_encoder_of_a_task_gives_its_features_to_an_index_and_to_probes(classifier, source, pictures, tmp_path):
    encoder = fm.encoder(classifier, device="cpu")
    before = fm.encoder(source, inputs=["rgb"], device="cpu")
    shown = [{"rgb": picture(COLOURS["red"], 5)}]
    assert encoder(shown).shape == (1, 32)
    assert not torch.allclose(encoder(shown), before(shown), atol=1e-3)
    index = embedding.embed(classifier, pictures / "val", ["rgb"], tmp_path / "index", print_fn=silent)
    assert len(index.names) == 12
    nearest = embedding.search(tmp_path / "index", classifier, shown[0], k=3, print_fn=silent)
    assert {name.partition("/")[0] for name, _ in nearest} == {"red"}


@pytest.mark.parametrize("command", ["embed", "export", "probe"])
def test_another_size_than_the_task_has_is_refused(classifier, pictures, tmp_path, command):
    data = [] if command == "export" else [str(pictures / "val")]
    out = str(tmp_path / "out.onnx")
    assert "size: " in refused(command, classifier, *data, "--input", "rgb", "--size", "64", "--out", out)


def test_a_head_that_cannot_be_traced_is_named_in_one_line(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fourm_engine.transfer.vector_heads.Attentive.forward", lambda self, f: f.tokens[: len(f.valid.tolist())]
    )
    out = ["--format", "torch", "--out", str(tmp_path / "classes.pt2")]
    assert "task.head=attentive: torch.export cannot follow it" in refused("export", classifier, "--input", "rgb", *out)
    assert not (tmp_path / "classes.pt2").exists()


@needs_torchvision
def test_a_detection_is_not_exported(source, tmp_path):
    trained = run(detection(tmp_path, source, coco(tmp_path / "coco")), "train.steps=1")
    out = ["--format", "torch", "--out", str(tmp_path / "boxes.pt2")]
    assert "a detection cannot be exported" in refused("export", trained, "--input", "rgb", *out)

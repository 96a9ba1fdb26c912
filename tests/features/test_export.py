"""`fourm export`: a file that runs without this package gives what the encoder gives, of any batch and any inputs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fourm_engine.features import export as exporting
from fourm_engine.features.encoder import Encoder
from fourm_engine.features.export import arrays_of, export
from fourm_engine.files import CannotWrite
from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.model import FourM
from fourm_engine.nn.transformer import Transformer
from tests.generate.toys import SIDE, make_model, picture
from tests.running import refused

NAMES = ["words", "colour", "pose"]
#: As the file has them, in the order of the vocabulary.
GIVEN = {"colour": "colour@pixels", "pose": "pose", "words": "words"}
SAMPLES = [
    {"colour": picture(1), "words": "abc", "pose": Ids([1, 2, 3])},
    {"words": "a"},
    {},
    {"colour": Condition(picture(2), keep=np.arange(16).reshape(4, 4) % 3 == 0), "pose": Ids([4, 4, 0])},
    {"colour": picture(3)},
]


@pytest.fixture
def encoder(model):
    return Encoder(model, NAMES)


def outputs(path: Path, arrays):
    """(pooled, tokens, valid) of the file, by the means of its format alone."""
    if path.suffix == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [node.name for node in session.get_inputs()] == list(GIVEN)
        assert json.loads(session.get_modelmeta().custom_metadata_map["fourm.json"])["inputs"].keys() == GIVEN.keys()
        return session.run(["pooled", "tokens", "valid"], dict(zip(GIVEN, arrays)))
    extra = {"fourm.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    assert list(json.loads(extra["fourm.json"])["inputs"]) == list(GIVEN)
    return [out.detach().numpy() for out in module(*map(torch.from_numpy, arrays))]


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_file_gives_what_the_encoder_gives(encoder, tmp_path, format):
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    path = tmp_path / f"out/encoder{exporting.SUFFIXES[format]}"
    facts, difference = export(encoder, path, format)
    assert difference < 1e-4
    assert facts.inputs["colour"]["shape"] == ["batch", 3, SIDE, SIDE]
    assert facts.outputs["tokens"] == ["batch", 16 + 3 + 10, encoder.num_features]
    features = encoder.forward_features(SAMPLES)
    arrays = arrays_of(encoder, [encoder.read(sample) for sample in SAMPLES], GIVEN)
    np.testing.assert_allclose(arrays[0][0], (picture(1).transpose(2, 0, 1) / 127.5 - 1), atol=1e-6)
    for rows in (slice(0, 5), slice(0, 1), slice(1, 3)):
        pooled, tokens, valid = outputs(path, [array[rows] for array in arrays])
        np.testing.assert_allclose(pooled, features.pooled()[rows].detach().numpy(), atol=1e-4)
        expected = features.values[rows][features.valid[rows]].detach().numpy()
        np.testing.assert_allclose(tokens[valid], expected, atol=1e-4)
        assert not tokens[~valid].any()
    for i, change in enumerate((lambda x: -x, lambda x: x ^ 1, lambda x: x ^ 1)):  # no input is ignored
        other = [change(a[:1]) if i == j else a[:1] for j, a in enumerate(arrays)]
        assert np.abs(outputs(path, other)[0] - outputs(path, [a[:1] for a in arrays])[0]).max() > 1e-3


def test_a_file_of_a_model_with_a_stem_gives_what_its_encoder_gives(model, tmp_path):
    network = Transformer(model.network.config.model_copy(update={"stem": "conv"}), model.vocabulary)
    network.load_state_dict(model.network.state_dict(), strict=False)
    model = FourM(network.eval(), model.modalities, model.tokenizers, model.vocabulary)
    _, difference = export(Encoder(model, NAMES), tmp_path / "encoder.pt2", "torch")
    assert difference < 1e-4
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        _, difference = export(Encoder(model, NAMES), tmp_path / "encoder.onnx", "onnx")
        assert difference < 1e-4


@pytest.mark.parametrize(
    ("by", "message"),
    [(1e-3, "differ from the encoder's by 1.0e-03, more than 1e-04"), (np.nan, "or the model's are not finite")],
)
def test_a_file_that_differs_is_not_written(encoder, tmp_path, monkeypatch, by, message):
    path = tmp_path / "encoder.pt2"
    path.write_text("before")
    monkeypatch.setattr(exporting, "_write_torch", lambda *given: given[-1].write_text("new"))

    def wrong(_):
        module = exporting.Exportable(encoder, GIVEN)
        return lambda tensors: [module(*tensors)[0].numpy() + by, *(x.numpy() for x in module(*tensors)[1:])]

    monkeypatch.setattr(exporting, "_load_torch", wrong)
    with pytest.raises(ValueError, match=f"the file's outputs {message}; nothing is written"):
        export(encoder, path, "torch")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir() if p.name != "site"] == ["encoder.pt2"]


def test_a_full_disk_is_an_error_and_does_not_abort_the_process(encoder, tmp_path, monkeypatch):
    write, full = exporting._write_torch, Path("/dev/full")
    monkeypatch.setattr(exporting, "_write_torch", lambda *given: write(*given[:-1], full))
    with pytest.raises(CannotWrite, match=rf"^{tmp_path}/encoder.pt2: cannot be written: No space left on device"):
        export(encoder, tmp_path / "encoder.pt2", "torch")
    assert [p.name for p in tmp_path.iterdir() if p.name != "site"] == []


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(encoder, tmp_path, monkeypatch):
    def told(message, *words):
        assert message in refused("export", *words)
        assert not list(tmp_path.glob("*.onnx"))

    make_model().save_pretrained(tmp_path / "run/model")
    run, out = tmp_path / "run", tmp_path / "encoder.onnx"
    told("files of format torch end in .pt2", run, "--input", "words", "--out", out, "--format", "torch")
    told("no modality 'wrods'", run, "--input", "wrods", "--out", out)
    told("expected pixels, such as 224", run, "--input", "words", "--out", out, "--size", "big")
    told("is of all inputs; give one size", run, "--input", "colour", "--out", out, "--size", "8", "--size", "9")
    monkeypatch.setitem(sys.modules, "onnx", None)
    told("pip install 'fourm-engine[onnx]'", run, "--input", "words", "--out", out)

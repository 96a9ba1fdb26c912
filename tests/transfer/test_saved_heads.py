"""What a folder of a trained task claims is checked before it is believed, and named where it is wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import fourm_engine as fm
from tests.running import refused
from tests.transfer.heads import config, run


@pytest.fixture(scope="module")
def trained(source, pictures, tmp_path_factory):
    path = config(tmp_path_factory.mktemp("saved"), source, pictures, {"kind": "classification"})
    return run(path, "train.steps=1") / "head"


def edited(trained, folder, change):
    shutil.copytree(trained, folder)
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="fourm"), "this is no trained task"),
        (lambda d: d.update(version=9), "version: must be 1"),
        (lambda d: d["task"].update(kind="magic"), "task: "),
        (lambda d: d.update(classes=None), "a classification needs classes"),
        (lambda d: d["classes"].append("more"), "head.output.weight has shape"),
        (lambda d: d["task"].update(head="os.system"), "no installed plugin provides the head 'os.system'"),
        (lambda d: d["task"].update(head="attentive", head_options={"queries": 1 << 40}), "does not fit config.json"),
        (lambda d: d["encoder"]["model"].update(width=1 << 20, heads=1), "model.width: "),
        (lambda d: d["encoder"]["modalities"]["rgb@pixels"].update(plugin="gone"), "'gone'"),
    ],
)
def test_a_config_that_claims_something_else_is_refused_in_one_line(trained, tmp_path, change, message):
    with pytest.raises(ValueError, match=r".") as caught:
        fm.load_head(edited(trained, tmp_path / "head", change), device="cpu")
    assert message in str(caught.value)


def test_files_that_are_damaged_or_missing_are_named(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "head")
    (tmp_path / "head/model.safetensors").write_bytes(b"\x80\x04no tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: not a safetensors file"):
        fm.load_head(tmp_path / "head")
    (tmp_path / "head/config.json").write_text("{" * 5000)
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        fm.load_head(tmp_path / "head")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        fm.load_head(tmp_path / "nowhere")


def test_a_model_that_has_diverged_is_an_error_and_no_answer(trained, pictures):
    model = fm.load_head(trained, device="cpu")
    next(model.network.head.parameters()).data.fill_(np.nan)
    with pytest.raises(ValueError, match="outputs are not finite; it has diverged, use another"):
        model.predict({"rgb": pictures / "val/red/0.png"})


def test_a_model_and_a_task_are_told_apart(source, trained, tmp_path):
    assert "this is no trained task" in refused("predict", source / "model", "--input", "rgb=photo.png")
    for folder in (trained, trained.parent):
        with pytest.raises(ValueError, match=r"holds a trained task, not a model; fourm predict, or fm\.load_head"):
            fm.FourM.from_pretrained(folder)
    said = refused("predict", trained.parent, "--input", "rgb=photo.png")
    assert "photo.png" in said
    assert "no such file" in said
    assert "no modality 'sound'" in refused("predict", trained.parent, "--input", "sound=a.wav")
    assert "is for `fourm finetune" in refused("train", trained.parent / "config.yaml")

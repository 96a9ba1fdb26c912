"""The papers' configs of tasks have the published settings, are networks of the published sizes, and train on data laid
out as their sets are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from fourm_engine.modalities import load_manager
from fourm_engine.nn.config import ModelConfig
from fourm_engine.recipes.finetune_task import finetune, modalities_of
from fourm_engine.recipes.task_config import load_task_config, parse_task_config
from fourm_engine.transfer.backbone import encoder_alone, inputs_of
from fourm_engine.transfer.classification import Classification
from fourm_engine.transfer.config import DetectionConfig
from fourm_engine.transfer.network import TaskNetwork, head_spec, make_head
from fourm_engine.transfer.task_folder import objective_of
from fourm_engine.yaml_config import read_yaml
from tests.transfer.heads import (
    HAS_TORCHVISION,
    HEAD,
    ade20k,
    coco,
    folders,
    model,
    needs_torchvision,
    nyuv2,
    scores,
    silent,
)

FOLDER = Path(__file__).parents[2] / "examples/transfer"
CONFIGS = [
    pytest.param(path.name, marks=needs_torchvision if path.name.startswith("coco") else ())
    for path in sorted(FOLDER.glob("*.yaml"))
]
#: Highest rate, warm-up and length in epochs, samples of an epoch; layer-wise decay, drop path.
PUBLISHED = {
    "in21k-b.yaml": (1e-4 * 16, 2, 20, 14_197_122, 0.75, 0.1),
    "in1k-b.yaml": (1e-4 * 4, 2, 50, 1_281_167, 0.75, 0.1),
    "coco-b.yaml": (1e-4, 250 * 64 / 118_287, 100, 118_287, 0.7, 0.1),
    "ade20k-b.yaml": (2e-4, 1, 64, 20_210, 0.75, 0.1),
    "ade20k-xl.yaml": (3e-4, 1, 128, 20_210, 0.95, 0.3),
    "nyuv2-b.yaml": (1e-4, 100, 1000, 795, 0.75, 0.1),
    "nyuv2-xl.yaml": (5e-5, 100, 1000, 795, 0.9, 0.0),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_has_the_published_settings_and_a_network_of_the_published_size(name):
    config = parse_task_config(read_yaml(FOLDER / name), name)
    lr, warmup, epochs, samples, decay, drop_path = PUBLISHED[name]
    plan = config.train.plan()
    assert plan.lr == pytest.approx(lr)
    assert plan.steps == pytest.approx(epochs * samples / config.train.batch_size, rel=1e-3)
    assert plan.warmup == pytest.approx(warmup * samples / config.train.batch_size, abs=1)
    assert (config.train.layer_decay, config.task.drop_path) == (decay, drop_path)
    manager = load_manager(config.modalities)
    inputs, target = modalities_of(config, manager)
    shape = ModelConfig(size="XL" if "xl" in name else "B", qk_norm="xl" in name)
    vocabulary = inputs_of(inputs.vocabulary(), list(inputs))
    if isinstance(config.task, DetectionConfig):
        objective = objective_of(config.task, inputs, classes=[f"{i}" for i in range(80)])
    elif target:
        objective = objective_of(config.task, inputs, target=next(iter(target.values())))
    else:
        objective = Classification(config.task, [f"{i}" for i in range(1000)])
    spec = head_spec(shape.width, vocabulary, objective, inputs)
    with torch.device("meta"):
        head = make_head(config.task.head, config.task.head_options, spec, manager)
        network = TaskNetwork(encoder_alone(shape, vocabulary), vocabulary, head, spec)
    matrices = sum(p.numel() for p in network.backbone.encoder.parameters() if p.ndim == 2)
    assert matrices == (1_207_910_400 if "xl" in name else 84_934_656)
    assert objective.outputs == {"ade": 150, "nyu": 1, "coc": 80}.get(name[:3], 1000)
    assert spec.size == {"ade": (512, 512), "nyu": (256, 256)}.get(name[:3])
    assert f"`{name}`" in (FOLDER / "README.md").read_text()
    assert f"fourm finetune examples/transfer/{name}" in (FOLDER / name).read_text()


SMALL = {"image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small model, and a stand-in of each set."""
    folder = tmp_path_factory.mktemp("recipes")
    model(folder / "model")
    folders(folder / "in", 4, extension="JPEG")
    ade20k(folder / "ad", 2)
    nyuv2(folder / "ny", 2)
    coco(folder / "co", 3)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_trains_on_data_laid_out_as_its_set_is(name, place, tmp_path):
    raw = read_yaml(FOLDER / name)
    data = place / name[:2]
    raw["finetune"]["source"] = str(place / "model")
    raw["modalities"]["settings"] = {m: {**s, **SMALL} for m, s in raw["modalities"]["settings"].items()}
    whole = raw["data"]["train"] == raw["data"]["val"]
    if name.startswith("coco"):
        files = {"labels": "instances_train2017.json", "val_labels": "instances_val2017.json"}
        raw["task"].update({key: str(data / "annotations" / file) for key, file in files.items()})
    elif not HAS_TORCHVISION:
        raw["task"] = {key: value for key, value in raw["task"].items() if key not in ("rand_augment", "colour_jitter")}
    parts = {"co": ("train2017", "val2017"), "ad": ("", "")}.get(name[:2], ("train", "train" if whole else "val"))
    raw["data"].update(train=str(data / parts[0]), val=str(data / parts[1]))
    if whole and not name.startswith("ade"):
        raw["data"]["held_out"] = 0.3
    raw["run"] = str(tmp_path / "run")
    if not name.startswith("in"):
        raw["task"]["head_options"] = {"width": 32} if name.startswith("coco") else HEAD
    raw["train"] = {
        **{key: value for key, value in raw["train"].items() if key not in ("samples", "compile", "eval_every")},
        **{"batch_size": 2, "steps": 3, "warmup": 1, "device": "cpu", "precision": "fp32", "threads": 1},
    }
    path = tmp_path / name
    path.write_text(yaml.safe_dump(raw))
    finetune(load_task_config(path), print_fn=silent)
    measure = {"in": "top-1", "ad": "mIoU", "ny": "delta1", "co": "AP50"}[name[:2]]
    assert 0 <= scores(tmp_path / "run")[measure] <= 1

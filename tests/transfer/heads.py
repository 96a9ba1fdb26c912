"""A small trained model, data of tasks in the formats of their sets, and runs of `fourm finetune` on them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm_engine import exported
from fourm_engine.fit.fitting import make_tokenizer
from fourm_engine.modalities import ModalitiesConfig, load_manager, load_modalities
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.pretrain.task import EXPORT
from fourm_engine.recipes.finetune_task import finetune
from fourm_engine.recipes.task_config import load_task_config
from tests.configs import over, store
from tests.running import silent

#: Not among the requirements of the tests: what an index has for CUDA breaks `transformers` beside a torch for the CPU.
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
needs_torchvision = pytest.mark.skipif(not HAS_TORCHVISION, reason="needs torchvision")
MODEL = {"width": 32, "encoder_blocks": 2, "decoder_blocks": 1, "heads": 2}
#: 4 x 4 tokens.
PIXELS = {"image_size": 32, "patch_size": 8}
COLOURS = {"blue": (20, 30, 220), "green": (20, 210, 40), "red": (220, 30, 20)}
TRAIN = {"batch_size": 6, "steps": 8, "lr": 3e-3, "log_every": 4, "device": "cpu", "threads": 1}


def model(folder: Path) -> Path:
    """A model of two inputs of numbers and one of words, with weights as they are drawn."""
    settings: dict[str, Any] = {
        "rgb@pixels": PIXELS,
        "near": {"plugin": "rgb@pixels", **PIXELS, "source": "near"},
        "caption": {"max_tokens": 8, "text": {"vocabulary_size": 400, "coordinate_bins": 8}},
    }
    manager = load_manager(config := ModalitiesConfig(select=list(settings), settings=settings))
    modalities = load_modalities(config, manager)
    torch.manual_seed(0)
    vocabulary = modalities.vocabulary()
    words = make_tokenizer([modalities["caption"]], manager)
    words.fit(lambda: [f"a {colour} square" for colour in COLOURS])
    network = Transformer(ModelConfig(**MODEL), vocabulary)
    exported.save(folder / EXPORT, network, modalities, {"caption": words}, vocabulary)
    return folder


def picture(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-20, 20, (*size, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def folders(root: Path, each: int = 4, extension: str = "png") -> Path:
    """Image folders: `train/red/0.png` and so on."""
    for part, first in (("train", 0), ("val", 100)):
        for name, colour in COLOURS.items():
            for i in range(each):
                write(root / part / name / f"{i}.{extension}", picture(colour, first + i))
    return root


def config(out: Path, source: Path, root: Path, task: dict[str, Any], **sections: Any) -> Path:
    """A config of pictures as the one input. `sections` go over its sections, key by key."""
    raw: dict[str, Any] = {
        "run": str(out / "run"),
        "finetune": {"source": str(source)},
        "modalities": {"select": ["rgb@pixels"], "settings": {"rgb@pixels": {"source": "."}}},
        "data": {"train": str(root / "train"), "val": str(root / "val")},
        "task": task,
        "train": TRAIN,
    }
    return store(out / "task.yaml", over(raw, sections))


def run(path: Path, *overrides: str) -> Path:
    """Train; the run's folder."""
    loaded = load_task_config(path, overrides)
    finetune(loaded, print_fn=silent)
    return loaded.run


def scores(run: Path) -> dict[str, float]:
    """The last evaluation."""
    return json.loads((run / "finished.json").read_text())["scores"]


def scenes(number: int, first: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(picture, class ids 1 to 3, metres) of red, green and blue stripes, 1, 2 and 4 metres away."""
    made = []
    for i in range(number):
        order = np.random.default_rng(first + i).permutation(3)
        kinds = np.repeat(order, 16)[None].repeat(48, 0)
        colours = np.stack([picture(colour, first + i, (48, 48)) for colour in COLOURS.values()])
        rows, columns = np.mgrid[:48, :48]
        made.append((colours[kinds, rows, columns], kinds + 1, np.array([1.0, 2.0, 4.0])[kinds]))
    return made


def ade20k(root: Path, number: int = 8) -> Path:
    """As ADE20K is laid out: `images/training/…jpg`, `annotations/training/…png`, where 0 is none of the classes."""
    for part, short, first in (("training", "train", 0), ("validation", "val", 100)):
        for i, (rgb, classes, _) in enumerate(scenes(number, first)):
            classes[:4] = 0
            write(root / f"images/{part}/ADE_{short}_{i:08}.jpg", rgb)
            write(root / f"annotations/{part}/ADE_{short}_{i:08}.png", classes.astype(np.uint8))
    return root


def nyuv2(root: Path, number: int = 8) -> Path:
    """As NYUv2 is laid out: `train/rgb/…jpg` and `train/depth/…png`, 16 bits of millimetres, 0 where unknown."""
    for part, first in (("train", 0), ("val", 100)):
        for i, (rgb, _, metres) in enumerate(scenes(number, first)):
            metres[:4] = 0
            write(root / f"{part}/rgb/{i:05}.jpg", rgb)
            write(root / f"{part}/depth/{i:05}.png", (metres * 1000).astype(np.uint16))
    return root


HEAD = {"width": 16, "upsample": 2, "blocks": 1}


def segmentation(out: Path, source: Path, root: Path, **sections: Any) -> Path:
    settings = {
        "rgb@pixels": {"source": "images"},
        "semseg": {"source": "annotations", "num_classes": 4, "image_size": 32, "patch_size": 8},
    }
    task = {"kind": "segmentation", "target": "semseg", "ignore": [0], "head_options": HEAD}
    given: dict[str, Any] = {
        "modalities": {"settings": settings},
        "data": {"train": str(root), "val": str(root), "held_out": ["validation"]},
        **sections,
    }
    return config(out, source, root, {**task, **given.pop("task", {})}, **given)


def regression(out: Path, source: Path, root: Path, **sections: Any) -> Path:
    depth = {"image_size": 32, "patch_size": 8, "min_depth": 0.5, "max_depth": 8.0}
    task = {"kind": "regression", "target": "depth", "head_options": HEAD}
    given: dict[str, Any] = {"modalities": {"settings": {"rgb@pixels": {"source": "rgb"}, "depth": depth}}, **sections}
    return config(out, source, root, {**task, **given.pop("task", {})}, **given)


def coco(root: Path, number: int = 8, size: int = 64) -> Path:
    """As COCO is laid out: `train2017/…jpg`, `val2017/…jpg`, `annotations/instances_….json`; each picture has one
    coloured square, and the last none."""
    kinds = list(COLOURS)
    for part, first in (("train2017", 0), ("val2017", 100)):
        images, annotations = [], []
        for i in range(number):
            rng = np.random.default_rng(first + i)
            shown, side = picture((90, 90, 90), first + i, (size, size)), int(rng.integers(size // 3, size // 2))
            x, y = (int(c) for c in rng.integers(0, size - side, 2))
            images.append({"id": first + i, "file_name": f"{first + i:012}.jpg", "height": size, "width": size})
            if i < number - 1:
                kind = i % len(kinds)
                shown[y : y + side, x : x + side] = COLOURS[kinds[kind]]
                one = {"id": first + i, "image_id": first + i, "category_id": 10 * kind, "area": side**2, "iscrowd": 0}
                annotations.append({**one, "bbox": [x, y, side, side], "segmentation": []})
            write(root / part / f"{first + i:012}.jpg", shown)
        categories = [{"id": 10 * k, "name": name} for k, name in enumerate(kinds)]
        (root / "annotations").mkdir(exist_ok=True)
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(document))
    return root


def detection(out: Path, source: Path, root: Path, **sections: Any) -> Path:
    task = {"kind": "detection", "head_options": {"width": 32, "convolutions": 1}}
    files = {"labels": "instances_train2017.json", "val_labels": "instances_val2017.json"}
    task |= {key: str(root / "annotations" / name) for key, name in files.items()}
    data = {"train": str(root / "train2017"), "val": str(root / "val2017")}
    given: dict[str, Any] = {"data": data, **sections}
    return config(out, source, root, {**task, **given.pop("task", {})}, **given)


RETRIEVAL = {"kind": "retrieval", "between": ["rgb@pixels", "caption"], "width": 16}


def captioned(root, each=4):
    """Pictures of one colour, the same as another modality, and captions that name the colour."""
    for part, first in (("train", 0), ("val", 100)):
        for number, (colour, value) in enumerate(COLOURS.items()):
            for i in range(each):
                name = f"{number * each + i:03}"
                write(root / part / "rgb" / f"{name}.png", picture(value, first + i))
                write(root / part / "near" / f"{name}.png", picture(value, first + 50 + i))
                (root / part / "caption").mkdir(exist_ok=True)
                (root / part / "caption" / f"{name}.txt").write_text(f"a {colour} square")
    return root


def retrieval(out, source, root, task=None, **sections):
    select = ["rgb@pixels", "near", "caption"] if "near" in str(task) else ["rgb@pixels", "caption"]
    modalities = {"select": select, "settings": {"rgb@pixels": {"source": "rgb"}}}
    return config(out, source, root, {**RETRIEVAL, **(task or {})}, **over({"modalities": modalities}, sections))

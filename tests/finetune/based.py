"""A small trained run of real modalities, and runs that start from it, all in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.tokenize import tokenize
from fourm_engine.recipes.train import train
from tests.configs import over, small, store
from tests.folders import names, write
from tests.running import silent

CODEC = {"encoder": {"blocks": 0, "width": 16}, "decoder": {"blocks": 1, "width": 16}}
GRID = {"image_size": 32, "patch_size": 8, "codebook_size": 16, "tokenizer": CODEC}
SETTINGS = {
    "rgb@pixels": {"image_size": 32, "patch_size": 8},
    "rgb": GRID,
    "depth": GRID,
    "caption": {"max_tokens": 16, "text": {"vocabulary_size": 400, "coordinate_bins": 8}},
}
TRAIN = {"batch_size": 4, "steps": 4, "lr": 1e-2, "checkpoint_every": 2, "log_every": 1, "device": "cpu", "threads": 1}
MODEL = {"width": 32, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2}


def prepare(folder: Path) -> None:
    """Data, tokenizers (those of grids serve several sizes), tokens and `folder/base`, a trained run."""
    for name in ("rgb", "depth", "caption"):
        write(folder / "data", name, name, names(10))
    fitting = {"steps": 4, "batch_size": 4, "threads": 1, "adapt": {"steps": 2, "sizes": [[48, 48]]}}
    data = {"val": str(folder / "data"), "tokens": str(folder / "tokens")}
    sections = {"tokenizers": {"fit": fitting}, "model": MODEL, "train": TRAIN}
    raw = small(folder, SETTINGS, run=str(folder / "base"), data=data, **sections)
    config = load_config(store(folder / "base.yaml", raw))
    fit(config, print_fn=silent)
    tokenize(config, print_fn=silent)
    train(config, print_fn=silent)


def config_of(folder: Path, out: Path, *, select: Any = ("caption", "depth", "rgb"), **sections: Any) -> Path:
    """The config of a run that starts from `folder/base`: it says no more than it must."""
    raw: dict[str, Any] = {
        "run": str(out / "run"),
        "finetune": {"source": str(folder / "base")},
        "data": {"train": str(folder / "data"), "val": str(folder / "data"), "tokens": str(folder / "tokens")},
        "masking": {
            "input_tokens": 8,
            "target_tokens": 8,
            "mixture": [{"name": "text to picture", "input": {"caption": 1}, "target": {"rgb": 1}}],
        },
        "train": TRAIN,
    }
    if select is not None:
        raw["modalities"] = {"select": list(select)}
    return store(out / "finetune.yaml", over(raw, sections))

"""Configs of small runs, with all files below one folder.

raw = small(tmp_path, {"rgb": GRID}, train={"steps": 4})
path = store(tmp_path / "config.yaml", raw)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CODEC = {"encoder": {"blocks": 0, "width": 32}, "decoder": {"blocks": 1, "width": 32}}
#: Settings of a grid of 4 x 4 tokens, and those of its tokenizer.
GRID = {"image_size": 32, "patch_size": 8, "codebook_size": 16, "tokenizer": CODEC}


def small(folder: Path, settings: Mapping[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A config as YAML has it, of the modalities of `settings`; its `sections` go over those here, key by key."""
    raw: dict[str, Any] = {
        "run": str(folder / "run"),
        "data": {"train": str(folder / "data")},
        "tokenizers": {
            "folder": str(folder / "tokenizers"),
            "fit": {"steps": 2, "batch_size": 4, "device": "cpu", "threads": 1},
        },
        "masking": {"input_tokens": 8, "target_tokens": 8},
        "model": {"width": 32, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2},
        "train": {"batch_size": 4, "steps": 2, "lr": 1e-3, "device": "cpu"},
    }
    if settings is not None:
        raw["modalities"] = {"select": list(settings), "settings": dict(settings)}
    return over(raw, sections)


def over(raw: dict[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the keys of `sections` over its own."""
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
    return raw


def store(path: Path, raw: Mapping[str, Any]) -> Path:
    """Write a config; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(raw)))
    return path

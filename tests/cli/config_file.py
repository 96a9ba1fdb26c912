"""A config to give to `fourm plugins`."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.recipes.test_config import MINIMAL


def write_config(folder: Path, **sections) -> Path:
    raw = MINIMAL | {"run": str(folder / "run"), "tokenizers": {"folder": str(folder / "tokenizers")}} | sections
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder / "config.yaml"

"""The config of a trial, for `fourm train` or `fourm finetune`: read, changed, checked.

In: the path of a base config, and settings by dotted keys. Out: nested values, completed by the trial's command; a
fine-tuning config leaves open what its source defines.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.recipes.config import parse_config, read_raw, resolve
from fourm_engine.recipes.task_config import parse_task_config, read_task, resolve_task
from fourm_engine.yaml_config import ConfigError, read_yaml, set_key

#: Settings for the length of a run.
LENGTHS = ("train.steps", "train.samples", "train.tokens")
#: Paths that a run needs and that may no longer exist in a config stored by another run.
NEEDED = ("data.train", "data.val", "data.tokens", "tokenizers.folder")


def is_task(raw: Mapping[str, Any]) -> bool:
    """Whether the config is for `fourm finetune` with a task and a head."""
    return "task" in raw


def command_of(raw: Mapping[str, Any]) -> str:
    return "finetune" if is_task(raw) else "train"


def read_base(path: Path) -> dict[str, Any]:
    """The config at `path`, not yet validated. Raises ConfigError."""
    raw = read_task(path) if is_task(read_yaml(path)) else read_raw(path, needed=NEEDED)
    if raw.get("extend") is not None:
        raise ConfigError(f"{path}: extends a model, which is for `fourm extend`; name a config that trains one")
    return raw


def with_settings(base: Mapping[str, Any], settings: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """A copy of `base` with settings; a length replaces another. Raises ConfigError."""
    raw = copy.deepcopy(dict(base))
    for key, value in settings.items():
        if key in LENGTHS:
            for other in LENGTHS:
                set_key(raw, other, None, f"{origin}: {other}")
        set_key(raw, key, copy.deepcopy(value), f"{origin}: {key}")
    return raw


def content_of(
    base: Mapping[str, Any], settings: Mapping[str, Any], seed: int, run: Path, origin: str
) -> dict[str, Any]:
    """`base` with `settings`, for a run in the folder `run`, checked. Raises ConfigError that starts with `origin`."""
    raw = with_settings(base, settings, origin) | {"run": str(run), "seed": seed}
    (resolve_task if is_task(raw) else resolve)(copy.deepcopy(raw), Path(origin))
    return raw


def check_from(raw: Mapping[str, Any], model: Mapping[str, Any], origin: str) -> None:
    """Check a config that starts from a model that is yet to be trained with the config `model`. Raises ConfigError."""
    filled = copy.deepcopy(dict(raw))
    if is_task(filled):
        parse_task_config(filled, origin)
        return
    for section in ("model", "modalities", "tokenizers"):
        given = filled.get(section) or {}
        if isinstance(given, dict):
            filled[section] = {**(model.get(section) or {}), **given}
    parse_config(filled, origin)

"""Complete the config of a fine-tuning run, which only states its differences from the source model.

In: the raw config. Out: the same with the model's shape, modality settings and tokenizer folder where the config leaves
them open.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.finetune.source import describe, filled
from fourm_engine.modalities import ModalitiesConfig, load_manager
from fourm_engine.yaml_config import ConfigError, validated
from fourm_plugins.hub import check_there

log = logging.getLogger(__name__)


def fill_in(raw: dict[str, Any], path: Path) -> None:
    """Complete `raw`, the content of the config `path`, in place. Raises ConfigError; ValueError for a missing
    model."""
    source = validated(FinetuneConfig, raw.get("finetune") or {}, f"{path}: finetune.").source
    modalities = validated(ModalitiesConfig, raw.get("modalities") or {}, f"{path}: modalities.")
    manager = load_manager(modalities)
    try:
        check_there(source, beside=path.parent)
        description = describe(source, manager)
    except ValueError as error:
        raise ConfigError(f"{path}: finetune.source: {error}") from None
    if modalities.select == "installed":
        usable = {p.name for p in manager.plugins if p.kind == "modality" and p.state == "ok"}
        names = [name for name, s in description.settings.items() if s["plugin"] in usable]
        if left_out := sorted(description.settings.keys() - set(names)):
            log.warning("%s: %s takes no part, its plugin is not installed", path, ", ".join(left_out))
    else:
        names = list(modalities.select)
    model = raw.get("model") or {}
    if isinstance(model, dict):  # anything else is reported by the validation of the whole config
        raw["model"], settings = filled(model, modalities.settings, description, names)
        raw["modalities"] = {**(raw.get("modalities") or {}), "select": names, "settings": settings}
    tokenizers = raw.get("tokenizers") or {}
    if isinstance(tokenizers, dict) and "folder" not in tokenizers:
        if description.tokenizers is None:
            raise ConfigError(
                f"{path}: tokenizers.folder: not set, and published models have no tokenizers; name the folder of "
                f"converted ones (fourm convert TOKENIZER FOLDER/SPACE --to native --modality NAME)"
            )
        raw["tokenizers"] = {**tokenizers, "folder": str(description.tokenizers)}

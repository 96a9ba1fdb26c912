"""Check whether a fitted tokenizer is up to date.

In: the tokenizer of a token space as it would be fitted, and its folder. Out: the request, JSON that is stored with the
tokenizer and determines it; the existing tokenizer, if it was fitted by the same request.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_engine.fit.config import FitConfig
from fourm_engine.fit.samples import ArrayData
from fourm_engine.identity import compare, digest, refuse
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.store import load_tokenizer, read_document, settings_changed
from fourm_engine.train.config import LENGTHS, RATES, WATCHING
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.settings import flat
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def request_of(
    tokenizer: Tokenizer,
    modalities: Sequence[Modality],
    train: Mapping[str, ArrayData],
    config: FitConfig | None,
    seed: int,
) -> dict[str, Any]:
    """Everything that determines the fitted state, with its hash. Excludes trainer settings without effect on it, and,
    for a network, all modalities but the first, as it is fitted on that one only."""
    quiet = {"checkpoint_every", "keep", "eval_every", "log_every", "threads", "cache_mb", "device", *WATCHING}
    quiet |= {"adapt"} if config is not None and config.adapt is None else set()
    members = modalities if config is None else modalities[:1]
    request: dict[str, Any] = {
        "kind": tokenizer.kind,
        "settings": tokenizer.stored_settings(),
        "modalities": {modality.name: digest(modality.identity()) for modality in members},
        "data": {m.name: [train[m.name].fingerprint, len(train[m.name])] for m in members if m.name in train},
        "fit": _deciding(config, quiet) if config is not None else None,
        "seed": seed,
    }
    if start := tokenizer.starting_point:
        request["start"] = start
    request["hash"] = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
    return request


def _deciding(config: FitConfig, quiet: set[str]) -> dict[str, Any]:
    """The settings, except unset lengths and rates, and trainer settings that are off."""
    off = {*LENGTHS, *RATES, "warmup_tokens", "cooldown_tokens", "layer_decay", "export"}
    settings = config.model_dump(mode="json", exclude=quiet)
    return {name: value for name, value in settings.items() if name not in off or value is not None}


def up_to_date(
    folder: Path,
    tokenizer: Tokenizer,
    modalities: Sequence[Modality],
    request: dict[str, Any],
    stamps: dict[str, str],
    manager: PluginManager,
    refit: bool,
) -> tuple[Tokenizer, dict[str, dict[str, float]]] | None:
    """The existing tokenizer that was fitted by the same request, and its report; None if it is missing, damaged, or to
    be replaced. Files with a changed size or time (`stamps`) are reported, and with `refit` lead to a new fit. Raises
    ValueError if it was fitted under other settings, unless `refit`."""
    try:
        document = read_document(folder)
    except ValueError as error:
        log.warning("fitting again: %s", error)
        return None
    if document is None:
        return None
    if not refit:
        check_same_settings(document, folder, tokenizer, modalities)
    fit = document["fit"]
    if fit.get("request") != request:
        was = {key: value for key, value in fit.get("request", {}).items() if key != "hash"}
        now = {key: value for key, value in request.items() if key != "hash"}
        changed_facts = compare(flat(was), flat(now))
        listed = "; ".join(f"{key} was {before}, is {after}" for key, (before, after) in changed_facts.items())
        log.warning("%s: fitting again, since %s", folder, listed)
        return None
    changed_files = sorted(name for name, stamp in stamps.items() if fit.get("stamps", {}).get(name) != stamp)
    if changed_files:
        files = f"training files of {', '.join(changed_files)} have another size or time than when it was fitted"
        if refit:
            log.warning("%s: fitting again, since %s", folder, files)
            return None
        log.warning("%s: %s; it is kept, and `fourm tokenizer fit --refit` fits it again", folder, files)
    try:
        return load_tokenizer(folder, tokenizer.specs, manager, modalities=modalities), fit["report"]
    except (ValueError, KeyError) as error:
        log.warning("fitting again: %s", error)
        return None


def check_same_settings(
    document: dict[str, Any], folder: Path, tokenizer: Tokenizer, modalities: Sequence[Modality]
) -> None:
    """Raise ValueError if the tokenizer of `document` was fitted under other settings of `modalities`."""
    for number, modality in enumerate(modalities):
        # A network that serves several sizes is fitted only on its first modality.
        changed = settings_changed(document, modality, any_size=number > 0 and isinstance(tokenizer, NeuralTokenizer))
        refuse(changed, where=folder, remedy="fit again with `fourm tokenizer fit --refit`")

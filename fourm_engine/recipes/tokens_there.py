"""Check that the tokens that a config names exist: with a misspelt folder, training would silently be slow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fourm_engine.data.sets import data_sets
from fourm_engine.recipes.config import RunConfig
from fourm_engine.storage.url import absolute
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import nearest


def check_tokens_there(config: RunConfig, modalities: Mapping[str, Modality]) -> None:
    """Raise ValueError if a training set has raw data and names a folder of tokens that does not exist, except
    `<run>/tokens`, which `fourm init` writes into a config in advance."""
    for one in data_sets(config.data, modalities):
        tokens = one.config.tokens
        if one.config.folder is None or not isinstance(tokens, Path) or tokens.exists():
            continue
        if absolute(tokens) != absolute(config.run / "tokens"):
            key = "data.tokens" if one.entry is None else f"{one.key}.tokens"
            near = _nearest(tokens)
            raise ValueError(
                f"{key}: {tokens} is not there; "
                + (f"did you mean {near}? If not, " if near else "")
                + f"run `fourm tokenize`, which writes it, or set {key}=null to tokenize each sample when it is read"
            )


def _nearest(folder: Path) -> Path | None:
    """An existing folder like this one but for the first part of its path that does not exist."""
    there = next((parent for parent in folder.absolute().parents if parent.is_dir()), None)
    if there is None:
        return None
    name, *below = folder.absolute().relative_to(there).parts
    near = nearest(name, (path.name for path in there.iterdir() if path.is_dir()))
    at = len(folder.parts) - 1 - len(below)
    meant = None if near is None else Path(*folder.parts[:at], near, *below)
    return meant if meant is not None and meant.is_dir() else None

"""Whether the tokens that a config names are there: a misspelt folder would make training slow without a word."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fourm_engine.data.sets import data_sets
from fourm_engine.recipes.config import RunConfig
from fourm_engine.storage.url import absolute
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import nearest


def check_tokens_there(config: RunConfig, modalities: Mapping[str, Modality]) -> None:
    """Raise ValueError where a training set has raw data and names a folder of tokens that is not there, but for
    `<run>/tokens`, which `fourm init` writes into a config before there are any."""
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
    """The folder that is there and has the name most like this one, or like the first part of it that is not there."""
    there = next((parent for parent in folder.absolute().parents if parent.is_dir()), None)
    if there is None:
        return None
    name, *below = folder.absolute().relative_to(there).parts
    near = nearest(name, (path.name for path in there.iterdir() if path.is_dir()))
    at = len(folder.parts) - 1 - len(below)
    return None if near is None else Path(*folder.parts[:at], near, *below)

"""Check the tokens of a config up front. Otherwise a misspelt folder would silently slow down training, and stale
tokens would be reported one folder at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fourm_engine.data.sets import all_sets, data_sets
from fourm_engine.data.tokens.stale import check_fresh
from fourm_engine.recipes.config import RunConfig
from fourm_engine.storage.url import absolute
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import nearest_path
from fourm_plugins.tokenizer import Tokenizer


def check_tokens_exist(config: RunConfig, modalities: Mapping[str, Modality]) -> None:
    """Raise ValueError if a training set with raw data names a token folder that does not exist, except
    `<run>/tokens`, which `fourm init` writes into a config in advance."""
    for one in data_sets(config.data, modalities):
        tokens = one.config.tokens
        if one.config.folder is None or not isinstance(tokens, Path) or tokens.exists():
            continue
        if absolute(tokens) != absolute(config.run / "tokens"):
            key = "data.tokens" if one.entry is None else f"{one.key}.tokens"
            near = nearest_path(tokens)
            near = near if near is not None and near.is_dir() and len(near.parts) == len(tokens.parts) else None
            raise ValueError(
                f"{key}: {tokens} is not there; "
                + (f"did you mean {near}? If not, " if near else "")
                + f"run `fourm tokenize`, which writes it, or set {key}=null to tokenize each sample when it is read"
            )


def check_tokens_fresh(
    config: RunConfig, modalities: Mapping[str, Modality], tokenizers: Mapping[str, Tokenizer]
) -> None:
    """Raise ValueError, naming every stale folder, if tokens were made with other settings or by other tokenizers."""
    sets = [one for one in all_sets(config.data, modalities) if one.training or one.folder is not None]
    folders = [(one, one.config.tokens / one.part) for one in sets if one.config.tokens is not None]
    check_fresh([(one.config.at(folder), one.modalities) for one, folder in folders], tokenizers)

"""TokenStore: the token shards of all modalities in a folder, made by the tokenizers of a run with its settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.shards import VIEWS_FOLDER, shard_paths
from fourm_engine.data.store import Store
from fourm_engine.data.tokens import TokenShards, check_made_with
from fourm_engine.data.view_shards import RecordedViews
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class TokenStore(Store):
    """What `fourm tokenize` wrote to `folder`.

    `recorded` has the views of all samples, `shards` the tokens of those modalities that have some.

    Raises ValueError where tokens were made by another tokenizer, with other settings, or through other views than
    recorded, and for a modality of which no file could be tokenized."""

    def __init__(self, folder: Path, modalities: Mapping[str, Modality], tokenizers: Mapping[str, Tokenizer]) -> None:
        self.folder, self.recorded = folder, RecordedViews(folder)
        # By name: the order in which shards were made must not decide what is drawn.
        self.names, self.views = sorted(self.recorded.names), self.recorded.views
        self.shards: dict[str, TokenShards] = {}
        for name, modality in modalities.items():
            spec = modality.spec
            if not spec.continuous and shard_paths(folder / name):
                self.shards[name] = self._open(modality, tokenizers.get(name))
            elif spec.alignment is not None and spec.alignment not in self.recorded.groups:
                raise ValueError(
                    f"{folder}: no views of group {spec.alignment!r} of {name}; run `fourm tokenize` again"
                )
        if empty := ", ".join(name for name, shards in self.shards.items() if not shards.names):
            raise ValueError(
                f"no tokens of {empty}: none of the files could be used when they were made; fix them and run "
                f"`fourm tokenize` again, or leave {empty} out of modalities.select"
            )

    @staticmethod
    def there(folder: Path) -> bool:
        """Whether `folder` holds tokens."""
        return bool(shard_paths(folder / VIEWS_FOLDER))

    def _open(self, modality: Modality, tokenizer: Tokenizer | None) -> TokenShards:
        name, folder = modality.name, self.folder / modality.name
        assert modality.spec.token_space is not None
        shards = TokenShards(folder, size=modality.spec.token_space.size)
        check_made_with(modality, dict(zip(shards.paths, shards.metadata)))
        if tokenizer is not None and tokenizer.fingerprint != shards.fingerprint:
            raise ValueError(
                f"{folder}: made by tokenizer {shards.fingerprint}, but the tokenizer of {name} is "
                f"{tokenizer.fingerprint}; run `fourm tokenize` again into an empty folder"
            )
        group = modality.spec.alignment
        views = self.recorded.digests(group) if group is not None else {}
        if other := [n for n, view in shards.column("view").items() if n in views and view != views[n]]:
            raise ValueError(
                f"{folder}: {len(other)} samples, such as {other[0]}, were made through other views than those in "
                f"{VIEWS_FOLDER}; run `fourm tokenize` again"
            )
        if lacking := len(self.recorded.paths) - len(shards.paths):
            log.warning("%s lacks %d shards of others there; run `fourm tokenize` again", folder, lacking)
        return shards

    def has(self, row: int) -> frozenset[str]:
        return frozenset(modality for modality, shards in self.shards.items() if self.names[row] in shards)

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        return self.shards[modality].ids(self.names[row], view)

    def identity(self) -> dict[str, Any]:
        return super().identity() | self.recorded.identity(self.names)

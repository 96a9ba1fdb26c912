"""Detects tokens that the settings and tokenizers of a run would not produce, as after a refit: one report for all
folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fourm_engine.data.tokens.folder_scan import scan_part
from fourm_engine.data.tokens.index import Index
from fourm_engine.data.tokens.indexing import has_tokens
from fourm_engine.data.tokens.shards import ShardFile, shard_path
from fourm_engine.data.tokens.token_shards import Making
from fourm_engine.storage.location import Location, Readable
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer


def check_fresh(
    folders: Iterable[tuple[Readable, Mapping[str, Modality]]], tokenizers: Mapping[str, Tokenizer]
) -> None:
    """Raise ValueError if tokens of some modalities in `folders` were made with other settings or by other tokenizers,
    naming all of them.

    Only one shard of each is checked: changed settings or a refit make all of them stale. Opening a folder checks its
    other shards."""
    stale: dict[Readable, ValueError] = {}
    for folder, modalities in folders:
        for name, path, making in _made(folder, modalities):
            try:
                making.check(modalities[name], path, tokenizers.get(name))
            except ValueError as error:
                stale[path.parent] = error
    if stale:
        (_, first), *others = stale.items()
        also = [str(folder) for folder, _ in others]
        raise ValueError(f"{first}; stale, too: {', '.join(also)}" if also else str(first))


def _made(folder: Readable, modalities: Mapping[str, Modality]) -> Iterator[tuple[str, Readable, Making]]:
    """(modality, one of its shards, how it was made) of each modality that has tokens there."""
    if not has_tokens(folder):
        return
    if isinstance(folder, Location):
        index = Index.load(folder)
        assert index is not None
        for name in modalities:
            for making, path in index.made(name).items():
                yield name, path, making
        return
    for name in modalities:
        if shards := scan_part(folder / name):
            path = shard_path(folder / name, min(shards))
            yield name, path, Making.read(ShardFile(path))

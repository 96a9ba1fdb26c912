"""A file that may not be read is not damaged: no message offers to replace it."""

from __future__ import annotations

import os

import pytest

from fourm_engine.data.tokens.shards import ShardFile
from fourm_engine.features.index import Index
from fourm_engine.files import read_object, words_of
from fourm_engine.tokenizers.store import read_document
from fourm_engine.weights import opened


def open_weights(folder):
    with opened(folder / "file"):
        pass


READERS = {
    "weights": (open_weights, "file"),
    "a token shard": (lambda folder: ShardFile(folder / "file"), "file"),
    "a tokenizer": (read_document, "tokenizer.json"),
    "an index": (Index.load, "index.json"),
    "a record": (lambda folder: read_object(folder / "file", most=9, what="more", remedy="remove it"), "file"),
}


@pytest.mark.parametrize("what", READERS)
def test_it_is_named_with_its_permissions(tmp_path, monkeypatch, what):
    read, name = READERS[what]
    (tmp_path / name).write_text("{}")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read anything
    with pytest.raises(PermissionError) as caught:
        read(tmp_path)
    assert words_of(caught.value) == f"{tmp_path / name}: Permission denied; change its permissions"

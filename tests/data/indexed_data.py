"""A data set and its tokens, each with an index."""

from __future__ import annotations

import pytest

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.tokens.tokenize import tokenize_split
from tests.data.indexing import MODALITIES as RAW
from tests.data.indexing import write_layout
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data

MODALITIES = fake_modalities(["a", "b", "words"])
TOKENIZERS = fake_tokenizers(MODALITIES)
SPECS = [modality.spec for modality in RAW.values()]
DATA = {f"{i:04d}": {"a": b"a%d" % i, "b": b"b%d" % i, **({"words": b"w%d" % i} if i % 2 else {})} for i in range(12)}
NAMES = {"a": sample_names(10), "b": sample_names(8, start=2), "words": sample_names(3)}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokens")
    write_data(root / "raw", MODALITIES, NAMES)
    config = DataConfig(shard_size=4, views=2, augment=True)
    tokenize_split(AlignedData(root / "raw", MODALITIES), root / "tokens", TOKENIZERS, config)
    return root / "tokens"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    write_layout(root, DATA, "mixed")
    open_catalogue(root, SPECS, index=True)
    return root


def samples(folder):
    """All that training reads of tokens."""
    store = TokenStore(folder, MODALITIES, TOKENIZERS)
    rows = {
        name: {m: [store.load(row, m, view).tolist() for view in (0, 1)] for m in sorted(store.has(row))}
        for row, name in enumerate(store.names)
    }
    views = {name: [store.recorded.get(name, view) for view in (0, 1)] for name in rows}
    return rows, views, store.kinds(), store.identity(), [store.index.names.row(name) for name in rows]

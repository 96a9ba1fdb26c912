"""A shard that is replaced, whatever its size and time, gives no wrong sample: it is read again or named."""

from __future__ import annotations

import os
import shutil

import pytest

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.index import INDEX
from fourm_engine.data.tokens import shard_files
from fourm_engine.data.tokens.index import INDEX_FOLDER
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.storage.config import RemoteConfig
from fourm_engine.storage.location import open_location
from fourm_engine.storage.url import Url
from tests.data.indexed_data import DATA, MODALITIES, NAMES, SPECS, TOKENIZERS, raw, samples, tokens
from tests.data.indexing import MODALITIES as RAW
from tests.data.indexing import expected, held, write_layout
from tests.data.test_remote import serve
from tests.fakes import fake_modalities, write_data
from tests.storage.conftest import fast, web

__all__ = ["fast", "raw", "tokens", "web"]


def replaced(path, other):
    """Put the content of another shard in place, under the old size and time."""
    status, content = path.stat(), other.read_bytes()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("layout", ["tars", "webdataset"])
@pytest.mark.parametrize("indexed", [True, False])
def test_another_shard_of_raw_data_of_the_same_size_and_time_gives_no_wrong_sample(tmp_path, layout, indexed):
    write_layout(tmp_path / "data", DATA, layout)
    write_layout(tmp_path / "other", {f"1{name[1:]}": files for name, files in DATA.items()}, layout)
    if indexed:
        open_catalogue(tmp_path / "data", SPECS, index=True)
    data = AlignedData(tmp_path / "data", RAW)
    shard = "shard-0.tar" if layout == "webdataset" else "a/shard-0.tar"
    replaced(tmp_path / "data" / shard, tmp_path / "other" / shard)
    data = AlignedData(tmp_path / "data", RAW) if indexed else data
    assert data.files("0001", "a") == {"npy": b"a1"}  # of the shard that stayed
    with pytest.raises(BadFile, match=rf"{shard}.*holds something else than when it was read first.*remove the folder"):
        data.files("0000", "a")


def test_a_remote_shard_that_was_replaced_by_one_of_the_same_size_gives_no_wrong_sample(web, fast, tmp_path):
    for folder, first in (("data", "0"), ("other", "1")):
        write_layout(tmp_path / folder, {f"{first}{name[1:]}": files for name, files in DATA.items()}, "webdataset")
    open_catalogue(tmp_path / "data", SPECS, index=True)
    serve(web, tmp_path / "data")
    web.files["shard-0.tar"] = (tmp_path / "other/shard-0.tar").read_bytes()
    remote = RemoteConfig(cache=tmp_path / "cache", timeout_s=5, give_up_s=1)
    data = AlignedData(open_location(Url(web.url), remote), RAW)
    assert data.files("0001", "a") == {"npy": b"a1"}
    with pytest.raises(BadFile, match=r"shard-0.tar.*holds something else"):
        data.files("0000", "a")


@pytest.mark.parametrize("layout", ["loose", "tars", "webdataset"])
def test_times_in_the_future_hide_no_change(tmp_path, layout):
    """As a clock makes them that goes ahead."""
    later = 4_000_000_000

    def put(data):
        for path in [path for path in tmp_path.rglob("*") if path.is_file() and INDEX not in path.parts]:
            path.unlink()
        write_layout(tmp_path, data, layout)
        for parent, folders, files in os.walk(tmp_path):
            for name in [*folders, *files] if INDEX not in parent else []:
                os.utime(os.path.join(parent, name), (later, later))

    put(DATA)
    open_catalogue(tmp_path, SPECS, index=True)
    turned = dict(zip(DATA, reversed(DATA.values())))
    put(turned)
    assert held(tmp_path) == expected(turned)


@pytest.mark.parametrize("part", ["a", "_views"])
def test_another_shard_of_the_same_size_and_time_is_named(tokens, tmp_path, part):
    copy = tmp_path / "tokens"
    shutil.copytree(tokens, copy, copy_function=shutil.copy2)
    first, second = (copy / part / f"shard-0000{number}.safetensors" for number in (0, 1))
    replaced(first, second)
    with pytest.raises(ValueError, match=rf"{part}/shard-00000.safetensors: holds something else than .*; remove"):
        samples(copy)
    shutil.rmtree(copy / INDEX_FOLDER)
    with pytest.raises(ValueError, match=r"holds other samples than the shard of views|is in both"):
        samples(copy)


def test_a_shard_of_the_same_samples_with_other_content_is_named_whatever_its_time(tokens, tmp_path):
    copy, other = tmp_path / "tokens", fake_modalities(["a", "b", "words"])
    shutil.copytree(tokens, copy, copy_function=shutil.copy2)
    write_data(tmp_path / "raw", other, NAMES, seed=1)
    config = DataConfig(shard_size=4, views=2, augment=True)
    tokenize_split(AlignedData(tmp_path / "raw", other), tmp_path / "others", TOKENIZERS, config)
    replaced(copy / "a/shard-00000.safetensors", tmp_path / "others/a/shard-00000.safetensors")
    with pytest.raises(ValueError, match=r"a/shard-00000.safetensors: holds something else than"):
        samples(copy)


def test_remote_tokens_that_are_not_those_of_their_index_are_named(web, fast, tokens, tmp_path):
    serve(web, tokens)
    remote = RemoteConfig(cache=tmp_path / "cache", timeout_s=5, give_up_s=1)
    assert samples(open_location(Url(web.url), remote))[0] == samples(tokens)[0]
    for cache_gb in (1, 0):
        remote = RemoteConfig(cache=tmp_path / f"cache{cache_gb}", cache_gb=cache_gb, timeout_s=5, give_up_s=1)
        web.files["a/shard-00000.safetensors"] = web.files["a/shard-00001.safetensors"]
        with pytest.raises(ValueError, match=rf"{web.url}/a/shard-00000.safetensors: holds something else .*upload"):
            samples(open_location(Url(web.url), remote))


def test_samples_that_are_appended_while_tokens_are_in_use_change_none_of_those_in_use(tokens, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(tokens.parent, root, copy_function=shutil.copy2)
    monkeypatch.setattr(shard_files, "OPEN_FILES", 1)
    store = TokenStore(root / "tokens", MODALITIES, TOKENIZERS)

    def read():
        rows = range(len(store))
        return [(store.names[row], {m: store.load(row, m).tolist() for m in sorted(store.has(row))}) for row in rows]

    before = read()
    write_data(root / "raw", MODALITIES, ["9", "00"])
    config = DataConfig(shard_size=4, views=2, augment=True)
    tokenize_split(AlignedData(root / "raw", MODALITIES), root / "tokens", TOKENIZERS, config)
    assert read() == before
    assert len(TokenStore(root / "tokens", MODALITIES, TOKENIZERS)) == len(before) + 2

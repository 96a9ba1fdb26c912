"""Data in a remote store gives the samples that it would give from a folder."""

from __future__ import annotations

import json
import logging
import os
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fourm_engine.data.columns import sealed, unsealed
from fourm_engine.data.config import DataConfig
from fourm_engine.data.data_store import DataStore
from fourm_engine.data.loader import batches
from fourm_engine.data.order import Share
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.available import with_data
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.index import FORMAT
from fourm_engine.data.raw.root import DataRoot
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.modalities import ModalitiesConfig, load_manager, load_modalities
from fourm_engine.storage import mapped
from fourm_engine.storage.errors import Away, Missing
from tests.data.training_data import MODALITIES, TOKENIZERS, assert_same, open_data
from tests.fakes import sample_names, write_data
from tests.storage.conftest import fast, web

__all__ = ["fast", "web"]
SPECS = [modality.spec for modality in MODALITIES.values()]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Raw data in shards, with an index and splits, and its tokens."""
    root = tmp_path_factory.mktemp("data")
    names = {"a": sample_names(20), "b": sample_names(18, start=2), "words": sample_names(9)}
    write_data(root / "raw", MODALITIES, names, tar=True)
    (root / "raw/splits.json").write_text(json.dumps({"some": sample_names(12)}))
    config = DataConfig(train=root / "raw", train_split="some", tokens=root / "tokens", views=2, augment=True)
    config = config.model_copy(update={"shard_size": 8})
    tokenize_split(AlignedData(root / "raw", MODALITIES), root / "tokens/train", TOKENIZERS, config)
    open_catalogue(root / "raw", SPECS, index=True)
    return config


def serve(web, root: Path):
    for path in root.rglob("*"):
        if path.is_file():
            web.files[path.relative_to(root).as_posix()] = path.read_bytes()


@pytest.fixture
def remote(web, local, tmp_path, fast):
    """The config with the same data at a URL."""
    serve(web, local.train.parent)
    settings = {"cache": tmp_path / "cache", "timeout_s": 20, "give_up_s": 120}
    same = local.model_dump() | {"train": f"{web.url}/raw", "tokens": f"{web.url}/tokens", "remote": settings}
    return DataConfig.model_validate(same)


def first(config, workers=0, **changes):
    data = open_data(config.model_copy(update=changes))
    return list(islice(batches(data, Share(batch_size=4), workers=workers), 6))


def assert_equal(config, other, **options):
    for ours, theirs in zip(first(config, **options), first(other), strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_gb", [1, 0])
def test_batches_of_remote_tokens_and_shards_are_those_of_local_ones(remote, local, cache_gb, workers):
    settings = remote.remote.model_copy(update={"cache_gb": cache_gb})
    assert_equal(remote.model_copy(update={"remote": settings}), local, workers=workers)


def test_raw_data_alone_and_tokens_alone_are_enough(remote, local):
    assert_equal(remote.model_copy(update={"tokens": None}), local.model_copy(update={"tokens": None}))
    names = {"train": None, "train_split": None}
    tokenized = {name: modality for name, modality in MODALITIES.items() if not modality.spec.continuous}
    ours, theirs = (
        DataStore.from_config(config.model_copy(update=names), tokenized, TOKENIZERS, training=True, seed=0)
        for config in (remote, local)
    )
    assert list(ours.names) == list(theirs.names)
    assert ours.identity() == theirs.identity()
    for row in range(len(ours)):
        for modality in ours.has(row):
            np.testing.assert_array_equal(ours.load(row, modality, 1), theirs.load(row, modality, 1))


def test_shards_are_downloaded_once_and_only_those_that_are_needed(web, remote):
    first(remote)
    first(remote)
    tars = {key: n for key, n in web.requests.items() if key.startswith("GET raw") and key.endswith(".tar")}
    assert set(tars.values()) == {1}
    assert not [key for key in tars if "/words/" in key or "/b/" in key]  # they have tokens


def test_a_token_shard_costs_one_request_and_a_copied_one_none(web, remote):
    first(remote, train=None, train_split=None)
    asked = {key: n for key, n in web.requests.items() if "/shard-" in key}
    assert asked == dict.fromkeys(asked, 1)
    assert {key.partition(" ")[0] for key in asked} == {"GET"}
    first(remote, train=None, train_split=None)
    assert {key: n for key, n in web.requests.items() if "/shard-" in key} == asked


def test_opening_remote_tokens_asks_for_no_shard_also_beside_local_files(web, remote, local):
    for train in (local.train, remote.train):
        open_data(remote.model_copy(update={"train": train}))
    assert not [key for key in web.requests if "tokens/" in key and "/shard-" in key]


def test_bytes_of_a_token_shard_that_changed_on_the_way_are_never_used(web, remote, local):
    shards = [path for path in web.files if path.startswith("tokens/") and "/shard-" in path]
    web.faults = {path: ["garbled"] for path in shards}
    assert_equal(remote, local)
    web.files |= {path: web.files[path][:-1] + bytes([255 - web.files[path][-1]]) for path in shards}
    settings = remote.remote.model_copy(update={"cache": remote.remote.cache / "other"})
    with pytest.raises(ValueError, match=r"shard-0.*: (holds something else|other bytes).*upload .* again") as caught:
        first(remote.model_copy(update={"remote": settings}))
    assert "\n" not in str(caught.value)


def test_a_copy_of_a_token_shard_that_is_cut_short_while_it_is_mapped_is_named_and_copied_anew(
    web, remote, local, monkeypatch
):
    monkeypatch.setattr(mapped, "PAUSE", 0)
    only = remote.model_copy(update={"train": None, "train_split": None})
    data = open_data(only)
    list(islice(batches(data, Share(batch_size=4), workers=0), 8))
    for copy in remote.remote.cache.glob("shard-*.copy"):
        os.utime(copy)  # another process uses it, too
    list(islice(batches(data, Share(batch_size=4), workers=0), 8))
    for copy in remote.remote.cache.glob("shard-*.copy"):
        os.truncate(copy, 100)
    with pytest.raises(ValueError, match=r"shard-.*\.copy: was cut short while it was in use .*; start again"):
        list(islice(batches(data, Share(batch_size=4), workers=0), 8))
    list(islice(batches(open_data(only), Share(batch_size=4), workers=0), 8))


def test_data_that_come_and_go_change_nothing(web, remote, local):
    for number, path in enumerate(sorted(web.files)):
        web.faults[path] = [["500", "reset"], ["truncated"], ["reset", "truncated", "503"]][number % 3]
    assert_equal(remote, local)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("fault", "error"), [("gone", Missing), ("500", Away)])
def test_a_shard_that_is_gone_ends_the_run_with_its_name_even_from_a_worker(web, remote, workers, fault, error):
    data = open_data(remote.model_copy(update={"remote": remote.remote.model_copy(update={"give_up_s": 1})}))
    shard = next(path for path in web.files if path.startswith("raw/a/") and path.endswith(".tar"))
    web.forever, web.faults[shard] = {shard}, [fault]
    stream = islice(batches(data, Share(batch_size=4), workers=workers), 20)
    with pytest.raises(error, match=f"{web.url}/{shard}: (there is no such file|the store stayed away)") as caught:
        list(stream)
    assert "\n" not in str(caught.value)


def test_a_token_shard_of_other_bytes_is_named_by_its_address_alone(web, remote):
    web.forever = {path for path in web.files if path.startswith("tokens/train/") and "/shard-" in path}
    web.faults = {path: ["garbled"] for path in web.forever}
    with pytest.raises(
        ValueError, match=rf"^{web.url}/tokens/train/\w+/shard-\d+\.safetensors: damaged, or no token shard; upload it"
    ):
        list(islice(batches(open_data(remote), Share(batch_size=4), workers=0), 20))


def test_remote_data_without_an_index_says_how_to_make_one(web, remote):
    for path in [path for path in web.files if path.endswith("_index/index.json")]:
        del web.files[path]
    with pytest.raises(ValueError, match=r"raw/_index: there is no index.*run `fourm data index` on a local copy"):
        open_data(remote)
    with pytest.raises(ValueError, match=r"neither raw data nor tokens in http.*/tokens/train"):
        open_data(remote.model_copy(update={"train": None, "train_split": None}))


def test_an_index_for_other_modalities_is_refused(web, remote):
    index = unsealed(web.files["raw/_index/index.json"], FORMAT) | {"views": []}
    web.files["raw/_index/index.json"] = sealed(index).encode()
    with pytest.raises(ValueError, match="made for other modalities than a"):
        AlignedData.from_config(MODALITIES, remote, training=True)


@pytest.mark.parametrize("kind", ["raw", "tokens/train"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [(b"", "damaged"), (b"{}", "damaged"), (b"[1]", "damaged"), (b'{"format": 99}', "of another version")],
)
def test_an_index_that_is_damaged_or_of_another_version_is_named(web, remote, kind, damage, said):
    web.files[f"{kind}/_index/index.json"] = damage
    changes = {"tokens": None} if kind == "raw" else {"train": None, "train_split": None}
    with pytest.raises(ValueError, match=rf"{web.url}/{kind}/_index: {said}"):
        open_data(remote.model_copy(update=changes))


def test_a_shard_replaced_by_another_one_is_named(web, remote):
    shard = next(path for path in web.files if path.startswith("raw/a/") and path.endswith(".tar"))
    web.files[shard] += bytes(512)
    with pytest.raises(ValueError, match=rf"{shard}: \d+ bytes, not \d+, as its index says"):
        first(remote)


def test_a_split_that_is_not_there_is_named(web, remote):
    del web.files["raw/splits.json"]
    with pytest.raises(ValueError, match=r"raw/splits\.json: needed for split 'some', but cannot be read"):
        open_data(remote)


def test_remote_data_of_no_installed_modality_is_refused(remote):
    modalities = load_modalities(ModalitiesConfig(), load_manager(ModalitiesConfig()))
    with pytest.raises(ValueError, match="no data of any installed modality in http"):
        with_data(modalities, [DataRoot(remote.at(remote.train), None)])


def test_a_sample_is_tokenized_from_remote_data(remote, local, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    config = remote.model_copy(update={"tokens": tmp_path / "tokens"})
    report = tokenize_split(
        AlignedData(remote.at(remote.train), MODALITIES), tmp_path / "tokens/train", TOKENIZERS, config
    )
    assert report.samples == 20
    assert (tmp_path / "tokens/train/splits.json").is_file()
    assert_equal(config, local)


def test_shards_of_later_rows_are_copied_meanwhile(web, remote):
    data = open_data(remote)
    assert data.store.reads_ahead
    data.store.ahead([0, 11])
    shards = [path.partition("/")[2] for path in web.files if path.startswith(("tokens/train/a/", "raw/a/"))]
    assert len(shards) == 3 + 3
    wanted = {"tokens/train/a/shard-00000", "tokens/train/a/shard-00001", "raw/a/shard-00000", "raw/a/shard-00001"}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        got = {key[4:].partition(".")[0] for key in web.requests if key.startswith("GET ")}
        if wanted <= got:
            break
        time.sleep(0.01)
        data.store.ahead([0, 11])  # as a reader that goes on does: there may have been no room
    assert wanted <= got
    assert not {"tokens/train/a/shard-00002", "raw/a/shard-00002"} & got


def test_a_local_store_is_not_told_of_later_rows(local):
    assert not open_data(local).store.reads_ahead


def test_what_comes_later_in_the_order_is_told_while_batches_are_made(local):
    data = open_data(local)
    told, needed = [], []

    class Told(type(data.store)):
        reads_ahead = True

        def ahead(self, rows, *, now=False):
            needed.extend(rows) if now else told.extend(rows)

    data.store.__class__ = Told
    data.__getitems__([0, 1, 2])
    later = next(position for position in range(200) if data.order.row(position) == told[0])
    assert later > 0
    assert told == [data.order.row(later + offset) for offset in range(3)]
    assert needed == [data.order.row(position) for position in range(3)]

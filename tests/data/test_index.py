"""The index of tokens says what their shards hold, follows them as they change, and costs no object a sample."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import threading
import time
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file

from fourm_engine.data.config import DataConfig
from fourm_engine.data.data_store import DataStore
from fourm_engine.data.names_table import NameTable
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens import indexing, shard_files
from fourm_engine.data.tokens.folder_scan import scan
from fourm_engine.data.tokens.index import INDEX_FOLDER, Index
from fourm_engine.data.tokens.indexing import build, open_index
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.storage import mapped as mapped_files
from fourm_engine.train.run_identity import RunIdentity
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, to_npy, write_data

MODALITIES = fake_modalities(["a", "b", "words"])
TOKENIZERS = fake_tokenizers(MODALITIES)
NAMES = {"a": sample_names(10), "b": sample_names(8, start=2), "words": sample_names(3)}


@pytest.fixture
def root(tmp_path):
    write_data(tmp_path / "raw", MODALITIES, NAMES)
    run(tmp_path)
    return tmp_path


def run(root, modalities=MODALITIES, **options):
    config = DataConfig(shard_size=4)
    return tokenize_split(AlignedData(root / "raw", modalities), root / "tokens", TOKENIZERS, config, **options)


def open_store(root):
    return TokenStore(root / "tokens", MODALITIES, TOKENIZERS)


def facts(index):
    """All that an index says, but for the times of files."""
    making = {name: [(way.digest, way.fingerprint) for way in ways] for name, ways in index.making.items()}
    files = index.files.copy()
    files[:, :, 1] = 0
    arrays = (index.shards, files, index.present, index.dropped, *index.names.arrays().values())
    return index.views, index.settings, index.groups, index.kinds, making, [array.tolist() for array in arrays]


def assert_up_to_date(folder):
    stored = Index.load(folder)
    assert stored is not None
    assert facts(stored) == facts(build(folder, scan(folder)))


def reads(monkeypatch):
    """The shards that are read from now on to make an index."""
    opened = []
    for kind in ("TokenShard", "ViewShard"):
        real = getattr(indexing, kind)
        monkeypatch.setattr(indexing, kind, lambda *args, real=real: opened.append(real(*args).path) or real(*args))
    return opened


def test_rows_are_the_same_sample_in_every_modality_shard_after_shard(root):
    store = open_store(root)
    assert list(store.names) == NAMES["a"]
    assert store.shard_sizes.tolist() == [4, 4, 2]
    assert store.index.present.dtype == np.uint8
    for row, name in enumerate(store.names):
        assert store.has(row) == {modality for modality, names in NAMES.items() if name in names}
    assert store.kinds() == Counter(store.has(row) for row in range(10))
    shards = {path.name for path in (root / "tokens/_views").iterdir()}
    assert {path.name for path in (root / "tokens/words").iterdir()} == shards  # of rows without content, too
    digests = load_file(root / "tokens/b/shard-00000.safetensors")["digest"]
    assert [bool(digest) for digest in digests] == [False, False, True, True]


def test_tokenizing_leaves_an_index_and_opening_reads_no_shard(root, monkeypatch):
    assert_up_to_date(root / "tokens")
    opened = reads(monkeypatch)
    open_store(root)
    assert not opened


def test_names_kinds_and_lookup_make_no_object_a_sample(root, monkeypatch):
    store = open_store(root)
    monkeypatch.setattr(NameTable, "name", lambda *_: pytest.fail("a name was read"))
    data = DataStore(_everything(root), raw=None, tokens=store)
    assert sum(data.kinds().values()) == 10
    assert data.identity()["content"].keys() == set(MODALITIES)
    assert data.shard_sizes.sum() == len(data) == 10


def _everything(root):
    from fourm_engine.data.splits import Split

    return Split("train", root / "raw", None)


def test_only_shards_that_changed_are_read_to_bring_an_index_up_to_date(root, monkeypatch):
    path = root / "raw/a/0005.npy"
    path.write_bytes(to_npy(np.full((12, 16, 2), 0.9, np.float32)))
    shutil.copytree(root / "tokens" / INDEX_FOLDER, root / "old")
    run(root)
    shutil.rmtree(root / "tokens" / INDEX_FOLDER)
    shutil.move(root / "old", root / "tokens" / INDEX_FOLDER)
    opened = reads(monkeypatch)
    open_index(root / "tokens")
    assert {path.relative_to(root / "tokens").as_posix() for path in opened} == {
        "a/shard-00001.safetensors",
        "_views/shard-00001.safetensors",
    }
    assert_up_to_date(root / "tokens")


@pytest.mark.parametrize("change", ["append", "modality", "prune", "shard gone", "index gone", "index damaged"])
def test_an_index_follows_whatever_changes_and_equals_one_made_anew(root, change):
    tokens = root / "tokens"
    if change == "append":
        write_data(root / "raw", MODALITIES, ["9", "00"])
        run(root)
    elif change == "modality":
        shutil.rmtree(tokens / "b")
        open_index(tokens)
        run(root)
    elif change == "prune":
        for path in ("a/0001.npy", "words/0001.txt"):
            (root / "raw" / path).unlink()
        run(root, prune=True)
        assert open_index(tokens).dropped.tolist() == [1]
    elif change == "shard gone":
        (tokens / "b/shard-00001.safetensors").unlink()
    elif change == "index gone":
        shutil.rmtree(tokens / INDEX_FOLDER)
    else:
        (tokens / INDEX_FOLDER / "present.npy").write_bytes(b"\x93NUMPY rubbish")
    open_index(tokens)
    assert_up_to_date(tokens)
    assert not [path for path in tokens.iterdir() if path.name.startswith(".")]


def test_a_pruned_sample_takes_no_part_no_other_moves_and_it_may_come_back(root):
    before = {name: open_store(root).load(row, "a").tolist() for row, name in enumerate(open_store(root).names)}
    kept = {path: (root / "raw" / path).read_bytes() for path in ("a/0001.npy", "words/0001.txt")}
    for path in kept:
        (root / "raw" / path).unlink()
    run(root, prune=True)
    store = open_store(root)
    assert list(store.names) == [name for name in NAMES["a"] if name != "0001"]
    assert store.shard_sizes.tolist() == [3, 4, 2]
    assert all(store.load(row, "a").tolist() == before[name] for row, name in enumerate(store.names))
    for path, content in kept.items():
        (root / "raw" / path).write_bytes(content)
    run(root)
    store = open_store(root)
    assert {name: store.load(row, "a").tolist() for row, name in enumerate(store.names)} == before


def test_an_index_is_kept_in_memory_where_the_folder_cannot_be_written_to(root, monkeypatch):
    shutil.rmtree(root / "tokens" / INDEX_FOLDER)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert list(open_store(root).names) == NAMES["a"]
    assert not (root / "tokens" / INDEX_FOLDER).exists()


@pytest.mark.parametrize("writable", [True, False])
def test_a_damaged_index_is_told_by_the_process_that_makes_it_anew_or_if_all_do_by_the_first(
    root, monkeypatch, caplog, writable
):
    (root / "tokens" / INDEX_FOLDER / "index.json").write_text("{")
    monkeypatch.setattr(os, "access", lambda path, mode: writable or mode != os.W_OK)
    open_index(root / "tokens")
    (record,) = [record for record in caplog.records if "damaged" in record.getMessage()]
    assert hasattr(record, "alone") == writable


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_an_index_is_kept_in_memory_where_writing_fails_whatever_the_permissions_say(root, monkeypatch, caplog, number):
    shutil.rmtree(root / "tokens" / INDEX_FOLDER)
    real = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert list(open_store(root).names) == NAMES["a"]
    assert caplog.text.count("each process makes an index of its own in memory") == 1
    assert not (root / "tokens" / INDEX_FOLDER).exists()


def test_one_of_many_that_open_tokens_at_once_makes_the_index(root, monkeypatch):
    shutil.rmtree(root / "tokens" / INDEX_FOLDER)
    built, real = [], indexing.build
    monkeypatch.setattr(indexing, "build", lambda *args, **options: built.append(1) or real(*args))
    found = []
    threads = [threading.Thread(target=lambda: found.append(facts(open_index(root / "tokens")))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert found == [found[0]] * 6


def test_few_shards_are_open_at_a_time_and_those_that_are_not_used_are_closed(root, monkeypatch):
    def mapped():
        with open("/proc/self/maps") as maps:
            return sum(str(root) in line and ".safetensors" in line for line in maps)

    monkeypatch.setattr(shard_files, "OPEN_FILES", 2)
    store = open_store(root)
    for row in range(10):
        for modality in sorted(store.has(row)):
            store.load(row, modality)
            assert 1 <= mapped() <= 2
    del store
    assert not mapped()


def test_a_shard_that_changed_while_it_was_in_use_is_named(root):
    store = open_store(root)
    path = root / "tokens/a/shard-00001.safetensors"
    os.utime(path, ns=(1, 1))
    assert store.load(0, "a").shape == (16,)
    with pytest.raises(ValueError, match=r"a/shard-00001\.safetensors: has changed while it was in use; start again"):
        store.load(5, "a")


def test_a_mapped_shard_that_is_cut_short_or_written_in_place_is_named(root, monkeypatch):
    monkeypatch.setattr(mapped_files, "PAUSE", 0)
    store = open_store(root)
    path = root / "tokens/a/shard-00001.safetensors"
    assert store.load(5, "a").shape == (16,)
    content = path.read_bytes()
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match=r"a/shard-00001\.safetensors: has changed while it was in use; start again"):
        store.load(5, "a")
    os.truncate(path, 100)  # without a check, reading the map would end this process
    with pytest.raises(ValueError, match=rf"cut short .* \(100 bytes instead of {len(content)}\); remove it and run"):
        store.load(5, "a")


def test_looks_at_mapped_shards_take_little_of_the_time_on_a_slow_file_system(root, monkeypatch):
    store = open_store(root)
    looks, real = [], os.stat

    def slow(path, *args, **options):
        if str(path).endswith("a/shard-00001.safetensors"):
            looks.append(path)
            time.sleep(0.02)
        return real(path, *args, **options)

    store.load(5, "a")
    monkeypatch.setattr(os, "stat", slow)
    for _ in range(50):
        store.load(5, "a")
    assert len(looks) == 1


def test_a_mapped_shard_that_is_replaced_or_removed_is_read_on(root, monkeypatch):
    monkeypatch.setattr(mapped_files, "PAUSE", 0)
    store = open_store(root)
    path = root / "tokens/a/shard-00001.safetensors"
    before = store.load(5, "a")
    path.with_suffix(".new").write_bytes(b"other")
    path.with_suffix(".new").replace(path)
    assert store.load(5, "a").tolist() == before.tolist()
    path.unlink()
    assert store.load(5, "a").tolist() == before.tolist()


def test_a_shard_of_other_samples_is_named(root):
    shutil.copy(root / "tokens/a/shard-00000.safetensors", root / "tokens/a/shard-00001.safetensors")
    with pytest.raises(ValueError, match=r"a/shard-00001\.safetensors: holds other samples than the shard of views"):
        open_store(root)


def test_a_sample_in_two_shards_is_an_error_that_names_both(root):
    shutil.copy(root / "tokens/_views/shard-00000.safetensors", root / "tokens/_views/shard-00007.safetensors")
    with pytest.raises(ValueError, match=r"'000\d' is in both .*/shard-00000\.safetensors and .*/shard-00007\."):
        open_store(root)


def test_damaged_tokens_are_encoded_again_where_contents_are_verified(root):
    path = root / "tokens/a/shard-00001.safetensors"
    before, content = load_file(path), bytearray(path.read_bytes())
    at = content.index(before["ids"][0].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert run(root).encoded == 0
    assert run(root, verify=True).modalities["a"].added == 1
    assert (load_file(path)["ids"] == before["ids"]).all()


def resumed(root, before):
    """The error that resuming a run of `before` gives; None where it goes on."""
    store = open_store(root)
    now = {"data.samples": len(store)} | {f"data.{key}": value for key, value in store.identity().items()}
    try:
        RunIdentity(now, {}, {}).check_resumable(root / "run", {"identity": json.loads(json.dumps(before or now))})
    except ValueError as error:
        return str(error)
    return now


def test_a_run_is_not_resumed_on_a_file_that_was_corrected_and_tokenized_again(root):
    before = resumed(root, None)
    os.utime(root / "raw/a/0005.npy", ns=(1, 1))
    run(root)
    assert resumed(root, before) == before  # the same content
    (root / "raw/a/0005.npy").write_bytes(to_npy(np.full((12, 16, 2), 0.9, np.float32)))
    run(root)
    assert "run: data.content.a was " in resumed(root, before)
    assert "data.names" not in resumed(root, before)


def test_a_run_is_not_resumed_on_appended_samples_which_are_named_as_such(root):
    before = resumed(root, None)
    write_data(root / "raw", MODALITIES, ["9", "00"])
    run(root)
    assert list(open_store(root).names) == [*NAMES["a"], "00", "9"]
    assert "run: data.samples was 10, is 12; restore it, or train anew" in resumed(root, before)


def test_a_part_of_the_rows_is_told_from_another_part_and_from_changed_content(root):
    some = np.array([1, 2, 5])
    first = open_store(root).selecting(some)
    assert list(first.names) == ["0001", "0002", "0005"]
    assert first.shard_sizes.tolist() == [2, 1, 0]
    assert first.identity() != open_store(root).selecting(np.array([1, 2, 6])).identity()
    before = first.identity()
    for name, changes in (("0006", False), ("0005", True)):
        (root / f"raw/a/{name}.npy").write_bytes(to_npy(np.full((12, 16, 2), 0.9, np.float32)))
        run(root)
        assert (open_store(root).selecting(some).identity() != before) == changes


def test_an_index_goes_to_another_process_as_its_path(root):
    store = open_store(root)
    sent = pickle.dumps(store.index)
    assert len(sent) < 500
    assert facts(pickle.loads(sent)) == facts(store.index)
    write_data(root / "raw", MODALITIES, ["9"])
    run(root)
    with pytest.raises(ValueError, match="tokens were added or changed while they were in use"):
        pickle.loads(sent)


@pytest.mark.parametrize(("modalities", "bits"), [(1, 8), (8, 8), (9, 16), (17, 32), (33, 64)])
def test_presence_takes_as_few_bytes_as_it_can(modalities, bits):
    from fourm_engine.data.tokens.index import mask_type

    assert mask_type(modalities) == np.dtype(f"uint{bits}")


def test_many_shards_are_read_with_few_open_files(tmp_path, monkeypatch):
    write_data(tmp_path / "raw", fake_modalities(["words"]), sample_names(60))
    modalities = fake_modalities(["words"])
    data = AlignedData(tmp_path / "raw", modalities)
    tokenize_split(data, tmp_path / "tokens", TOKENIZERS, DataConfig(shard_size=1))
    monkeypatch.setattr(shard_files, "OPEN_FILES", 8)
    store = TokenStore(tmp_path / "tokens", modalities, TOKENIZERS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, len(os.listdir("/proc/self/fd")) + 16), hard))
    try:
        assert len([store.load(row, "words") for row in range(60)]) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

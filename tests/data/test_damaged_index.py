"""A damaged index gives the same samples, or one line that names the file."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import re
import shutil
import zlib

import numpy as np
import pytest

from fourm_engine.data import columns
from fourm_engine.data.checks.tokens import TokenCheck
from fourm_engine.data.columns import checksums, sealed, unsealed
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.index import FILE, FORMAT, INDEX
from fourm_engine.data.tokens import index as token_index
from fourm_engine.data.tokens.index import INDEX_FOLDER
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.storage import mapped
from fourm_engine.storage.config import RemoteConfig
from fourm_engine.storage.location import open_location
from fourm_engine.storage.url import Url
from tests.data.indexed_data import DATA, MODALITIES, SPECS, TOKENIZERS, raw, samples, tokens
from tests.data.indexing import MODALITIES as RAW
from tests.data.indexing import expected, held, settle, write_layout
from tests.data.test_remote import serve
from tests.fakes import sample_names, write_data
from tests.storage.conftest import fast, web

__all__ = ["fast", "raw", "tokens", "web"]


def damages(folder, number):
    """(what, [(file, its content; None: it is gone)]) of the files of an index; `number` of them."""
    found = list(_damages(folder))
    return random.Random(0).sample(found, min(number, len(found)))


def _damages(folder):
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    drawn = random.Random(1)
    for path, content in files.items():
        yield f"{path.name} gone", [(path, None)]
        yield f"{path.name} empty", [(path, b"")]
        for end in {1, len(content) // 2, len(content) - 1}:
            yield f"{path.name} cut at {end}", [(path, content[:end])]
        yield f"{path.name} longer", [(path, content + b"\0")]
        for at in range(len(content)):
            flipped = bytes([content[at] ^ 1 << drawn.randrange(8)])
            yield f"{path.name} flipped at {at}", [(path, content[:at] + flipped + content[at + 1 :])]
    for (one, first), (other, second) in itertools.combinations(files.items(), 2):
        if first != second:
            yield f"{one.name} and {other.name} swapped", [(one, second), (other, first)]


def write(changes):
    for path, content in changes:
        path.unlink() if content is None else path.write_bytes(content)


def check_tokens(tokens, tmp_path, caplog, number):
    truth = samples(tokens)
    copy = tmp_path / "tokens"
    shutil.copytree(tokens, copy, copy_function=shutil.copy2)
    whole = {path: path.read_bytes() for path in (copy / INDEX_FOLDER).iterdir()}
    for what, changes in damages(copy / INDEX_FOLDER, number):
        write(changes)
        caplog.clear()
        assert samples(copy) == truth, what
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) <= 1, what
        assert all(f"{copy / INDEX_FOLDER}: damaged" in line for line in lines), what
        if changed := {path for path, content in whole.items() if path.read_bytes() != content}:
            # A checksum or a space that changed without changing what is said.
            assert not lines, what
            assert {path.name for path in changed} == {"index.json"}, what
            write(whole.items())


def test_a_damaged_index_of_tokens_is_said_and_made_anew_with_the_same_samples(tokens, tmp_path, caplog):
    check_tokens(tokens, tmp_path, caplog, 12)


@pytest.mark.slow
def test_five_hundred_damages_of_an_index_of_tokens_change_no_sample(tokens, tmp_path, caplog):
    check_tokens(tokens, tmp_path, caplog, 500)


def check_raw(raw, tmp_path, number):
    truth = held(raw)
    assert truth == expected(DATA)
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy, copy_function=shutil.copy2)
    settle(copy)
    open_catalogue(copy, SPECS, index=True)
    for what, changes in damages(copy / INDEX, number):
        write(changes)
        assert held(copy) == truth, what


def test_a_damaged_index_of_raw_data_changes_no_sample(raw, tmp_path):
    check_raw(raw, tmp_path, 6)


@pytest.mark.slow
def test_five_hundred_damages_of_an_index_of_raw_data_change_no_sample(raw, tmp_path):
    check_raw(raw, tmp_path, 500)


@pytest.fixture
def by_block(monkeypatch):
    """All columns are treated as the large ones are: compared block by block, as they are read."""
    monkeypatch.setattr(columns, "READ", 0)
    monkeypatch.setattr(columns, "SMALL", 0)
    monkeypatch.setattr(columns, "BLOCK", 128)


def check_by_block(folder, index, read, number):
    """Each damage within a column is mended or changes nothing; or one line says which folder to remove, which mends
    it. Returns how often."""
    truth, lines, drawn = read(folder), 0, random.Random(0)
    for _ in range(number):
        large = [path for path in sorted((folder / index).rglob("*.npy")) if path.stat().st_size > 300]
        path = drawn.choice(large)
        content = path.read_bytes()
        at = drawn.randrange(128, len(content) - 128)  # neither in the first block nor in the last
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            assert read(folder) == truth, (path, at)
        except columns.DamagedColumn as damage:
            said = re.fullmatch(rf"{path}: damaged \(.*\); remove the folder (\S+), and it is made anew", str(damage))
            shutil.rmtree(said[1])
            lines += 1
            assert read(folder) == truth, (path, at)
    return lines


@pytest.fixture
def large_tokens(by_block, tmp_path):
    names = {"a": sample_names(80), "b": sample_names(20, start=10), "words": sample_names(3)}
    write_data(tmp_path / "large", MODALITIES, names)
    config = DataConfig(shard_size=30, views=2, augment=True)
    tokenize_split(AlignedData(tmp_path / "large", MODALITIES), tmp_path / "tokens", TOKENIZERS, config)
    return tmp_path / "tokens"


@pytest.fixture
def large_raw(by_block, tmp_path):
    data = {f"{i:04d}": {"a": b"a%d" % i, **({"b": b"b%d" % i} if i % 2 else {})} for i in range(80)}
    write_layout(tmp_path / "raw", data, "mixed")
    settle(tmp_path / "raw")
    open_catalogue(tmp_path / "raw", SPECS, index=True)
    return tmp_path / "raw"


def test_a_damaged_block_of_a_large_index_is_found_before_it_gives_a_wrong_sample(large_tokens, large_raw):
    assert check_by_block(large_tokens, INDEX_FOLDER, samples, 3)
    assert check_by_block(large_raw, INDEX, held, 4)


@pytest.mark.slow
def test_five_hundred_damages_of_the_blocks_of_an_index_change_no_sample(large_tokens, large_raw):
    assert check_by_block(large_tokens, INDEX_FOLDER, samples, 250)
    assert check_by_block(large_raw, INDEX, held, 250)


def test_a_damaged_block_is_found_wherever_the_index_is_read_from_again(large_tokens):
    """By a process that was sent the store, and where an index is brought up to date."""
    store = TokenStore(large_tokens, MODALITIES, TOKENIZERS)
    truth, sent = samples(large_tokens), pickle.dumps((store.index, store.index.names))
    path = large_tokens / INDEX_FOLDER / "names.blob.npy"
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    for table in (store.index.names, pickle.loads(sent)[0].names, pickle.loads(sent)[1]):
        with pytest.raises(columns.DamagedColumn, match=r"names.blob.npy: damaged .* remove the folder"):
            list(table)
    (finding,) = TokenCheck(large_tokens, "train", MODALITIES, TOKENIZERS, {}).findings
    assert "names.blob.npy: damaged" in str(finding)
    os.utime(large_tokens / "a/shard-00000.safetensors", ns=(1, 1))
    assert samples(large_tokens) == truth


def test_opening_an_index_reads_no_more_of_a_large_column_than_its_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "READ", 0)
    monkeypatch.setattr(columns, "SMALL", 1 << 16)
    monkeypatch.setattr(columns, "BLOCK", 1 << 12)
    column = np.arange(100_000)
    columns.save_column(tmp_path / "column.npy", column)
    read, known = [], checksums(column)
    sums = columns._sum
    monkeypatch.setattr(columns, "_sum", lambda stored, block: read.append(block) or sums(stored, block))
    opened = columns.map_column(tmp_path / "column.npy", "i", checks=known)
    assert sorted(read) == [0, len(known) - 1]
    assert (opened[77], opened[5:5].tolist(), opened[-1], opened[200:203].tolist()) == (77, [], 99_999, [200, 201, 202])
    assert opened.searchsorted(np.int64(60_000)) == 60_000
    assert len(read) < 40
    rows = np.array([3, 99_998, 50_000], np.uint32)
    assert opened[rows].tolist() == rows.tolist()
    assert np.array_equal(opened[column % 7 == 3], column[column % 7 == 3])
    assert np.array_equal(np.asarray(opened), column)
    assert opened.searchsorted(rows).tolist() == rows.tolist()
    before = len(read)
    assert opened[::2][-1] == 99_998
    assert len(read) == before  # each block once


@pytest.mark.parametrize("large", [False, True])
def test_a_mapped_column_that_is_cut_short_or_written_in_place_is_named(tmp_path, monkeypatch, large):
    monkeypatch.setattr(mapped, "PAUSE", 0)
    monkeypatch.setattr(columns, "READ", 100)
    monkeypatch.setattr(columns, "SMALL", 0 if large else 1 << 24)
    path, column = tmp_path / "column.npy", np.arange(100_000)
    columns.save_column(path, column)
    opened = columns.map_column(path, "i", checks=checksums(column))
    assert opened[50_000] == 50_000
    os.utime(path, ns=(1, 1))
    if large:  # what was not yet read is compared when it is
        assert opened[90_000] == 90_000
    else:
        with pytest.raises(columns.DamagedColumn, match=r"column\.npy: has changed while it was in use; start again"):
            opened[50_000]
    os.truncate(path, 200)  # without a check, reading the map would end this process
    for read in (lambda: opened[50_000], lambda: opened[:], lambda: opened.searchsorted(7), lambda: np.asarray(opened)):
        with pytest.raises(columns.DamagedColumn, match=r"\(200 bytes instead of 800128\); remove the folder"):
            read()


def test_a_small_column_and_one_that_is_needed_whole_are_read(tmp_path):
    column = np.arange(100_000)
    for name, opened in (("small", columns.map_column), ("whole", columns.open_column)):
        columns.save_column(tmp_path / name, column[:1000] if name == "small" else column)
        read = opened(tmp_path / name, "i")
        os.truncate(tmp_path / name, 0)
        assert np.array_equal(read, column[: len(read)])


@pytest.mark.parametrize("name", ["present.npy", "names.offsets.npy", "files.npy", "index.json"])
def test_a_damaged_index_of_remote_tokens_is_named(web, fast, tokens, tmp_path, name):
    serve(web, tokens)
    path = f"{INDEX_FOLDER}/{name}"
    web.files[path] = web.files[path][:-2] + bytes([web.files[path][-2] ^ 1]) + web.files[path][-1:]
    remote = RemoteConfig(cache=tmp_path / "cache", timeout_s=5, give_up_s=1)
    with pytest.raises(ValueError, match=rf"{web.url}/{INDEX_FOLDER}: damaged .* upload them again") as caught:
        samples(open_location(Url(web.url), remote))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["names.offsets", "names.order", "names.blob", "present", "dropped", "shards"])
def test_columns_of_an_index_that_lie_lead_to_no_memory_outside_of_them(web, fast, tokens, tmp_path, column):
    """As if somebody had made them, checksums and all."""
    serve(web, tokens)
    path = f"{INDEX_FOLDER}/{column}.npy"
    values = np.load(tokens / path)
    if column == "dropped":
        values = np.array([1 << 40], values.dtype)
    else:
        values[len(values) // 2 :] = np.iinfo(values.dtype).max
    np.save(tmp_path / "column.npy", values)
    web.files[path] = (tmp_path / "column.npy").read_bytes()
    facts = unsealed(web.files[f"{INDEX_FOLDER}/index.json"], 3)
    facts["columns"][column] = checksums(values)
    web.files[f"{INDEX_FOLDER}/index.json"] = sealed(facts).encode()
    remote = RemoteConfig(cache=tmp_path / "cache", timeout_s=5, give_up_s=1)
    with pytest.raises(ValueError, match=rf"{web.url}.*(damaged|holds something else than)") as caught:
        samples(open_location(Url(web.url), remote))
    assert "\n" not in str(caught.value)


def test_a_checksum_is_that_of_the_file_whatever_the_column(tmp_path):
    for column in (np.arange(5, dtype=np.uint16), np.zeros(0, np.int64), np.arange(10)[::2], np.full(3, 7, ">u4")):
        columns.save_column(tmp_path / "column.npy", column)
        assert checksums(column) == [zlib.crc32((tmp_path / "column.npy").read_bytes())]


@pytest.mark.parametrize(
    "hostile",
    [
        {"shards": [["/etc/passwd", 1, 1, True, 0, 0]]},
        {"odd": 3},
        {"views": [{}]},
        {"format": "99"},
        {"members": {"folder": "../x", "columns": {}}},
        {"shards": None},
    ],
)
def test_an_index_that_lies_leads_nowhere(tmp_path, hostile):
    write_layout(tmp_path, DATA, "mixed")
    open_catalogue(tmp_path, SPECS, index=True)
    path = tmp_path / INDEX / FILE
    path.write_text(sealed(unsealed(path.read_bytes(), FORMAT) | hostile))
    lines: list[str] = []
    open_catalogue(tmp_path, SPECS, index=True, print_fn=lines.append)
    assert "damaged" in lines[0]
    assert held(tmp_path) == expected(DATA)


@pytest.mark.parametrize("format", [1, 99])
def test_an_index_of_another_version_is_said_to_be_so_and_made_anew_without_a_warning(tokens, tmp_path, caplog, format):
    caplog.set_level("INFO")
    write_layout(tmp_path / "data", DATA, "mixed")
    open_catalogue(tmp_path / "data", SPECS, index=True)
    shutil.copytree(tokens, tmp_path / "tokens", copy_function=shutil.copy2)
    truth = samples(tmp_path / "tokens")
    tokens_index = tmp_path / "tokens" / INDEX_FOLDER / "index.json"
    current = {tmp_path / "data" / INDEX / FILE: FORMAT, tokens_index: token_index.FORMAT}
    for path, number in current.items():
        facts = unsealed(path.read_bytes(), number)
        path.write_text(sealed(facts | {"format": format}))
    caplog.clear()
    assert held(tmp_path / "data") == expected(DATA)
    assert samples(tmp_path / "tokens") == truth
    assert not [r.getMessage() for r in caplog.records if r.levelname != "INFO" and "_index: " in r.getMessage()]
    for path, number in current.items():
        assert f"{path.parent}: of another version (format {format}, this version reads {number}), made" in caplog.text
        assert unsealed(path.read_bytes(), number)
    assert "damaged" not in caplog.text


def test_names_and_paths_in_an_index_that_lead_out_are_refused(tmp_path):
    write_layout(tmp_path / "data", {"xx/y": {"a": b"1"}, "z": {"a": b"2"}}, "loose")
    open_catalogue(tmp_path / "data", SPECS, index=True)
    (tmp_path / "y.npy").write_bytes(b"secret")
    path = tmp_path / "data" / INDEX / FILE
    for column, before, after in (("names.blob", b"xx/y", b"../y"), ("loose.blob", b"a/xx/y.npy", b"../y.npy//")):
        file = next((tmp_path / "data" / INDEX).glob(f"view-*/{column}.npy"))
        content = file.read_bytes()
        assert before in content
        file.write_bytes(content.replace(before, after))
        document = unsealed(path.read_bytes(), FORMAT)  # made to fit
        for view in document["views"]:
            view["stored"]["columns"][column][1] = [zlib.crc32(file.read_bytes())]
        path.write_text(sealed(document))
        if column == "names.blob":
            assert held(tmp_path / "data") == expected({"xx/y": {"a": b"1"}, "z": {"a": b"2"}})  # made anew
        else:
            data = AlignedData(tmp_path / "data", RAW)
            with pytest.raises(ValueError, match="_index is damaged"):
                data.files("xx/y", "a")

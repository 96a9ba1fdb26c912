"""An index says the same as a scan, whatever has changed since and whenever its writer was stopped."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourm_engine.data.raw import catalogue, local_sources, reindex
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.index import FILE, INDEX
from fourm_engine.files import CannotWrite
from fourm_engine.lock import Busy, at_work
from tests.data.indexing import MODALITIES, OLD, expected, held, settle, write_layout
from tests.fakes import write_tar
from tests.killing import ends
from tests.stopping import Stop, stopping_after

SPECS = [modality.spec for modality in MODALITIES.values()]
DATA = {f"{i:04d}": {"a": b"a%d" % i, "b": b"b%d" % i, **({"words": b"w%d" % i} if i % 2 else {})} for i in range(12)}
LAYOUTS = ["loose", "tars", "webdataset", "mixed"]


def index(root, **options):
    lines: list[str] = []
    there = open_catalogue(root, SPECS, index=True, print_fn=lines.append, **options)
    return there, lines


@pytest.fixture
def scans(monkeypatch):
    """Paths that are scanned, and folders that are listed."""
    done: list[str] = []
    scan, listing = reindex.scan, reindex.Listing
    monkeypatch.setattr(reindex, "scan", lambda path: done.append(path.name) or scan(path))
    for module in (local_sources, reindex):
        monkeypatch.setattr(module, "Listing", lambda f, *e: done.append(f.name) or listing(f, *e))
    return done


NAME = st.text("abcé.-_0", min_size=1, max_size=5).filter(lambda n: not n.startswith(".") and not n.endswith("."))
SAMPLES = st.dictionaries(
    st.one_of(NAME, st.builds("{}/{}".format, NAME, NAME)),
    st.dictionaries(st.sampled_from(["a", "b", "words"]), st.binary(max_size=9), min_size=1),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAMPLES, st.sampled_from(LAYOUTS), st.integers(1, 3))
def test_an_index_says_what_a_scan_says(tmp_path_factory, data, layout, shards):
    root = tmp_path_factory.mktemp("data")
    try:
        write_layout(root, data, layout, shards=shards)
        before = AlignedData(root, MODALITIES)
    except (ValueError, OSError):
        return  # names that clash; whether there is an index or not
    scanned = {n: {m: before.files(n, m) for m in sorted(before.has(n))} for n in before.names}
    index(root)
    assert held(root) == scanned
    after = AlignedData(root, MODALITIES)
    assert list(after.names) == list(before.names)
    assert after.counts == before.counts
    assert after.kinds() == before.kinds()
    for name in before.names:
        for modality in before.has(name):
            assert after.where(name, modality) == before.where(name, modality)
            assert after.stamp(name, modality) == before.stamp(name, modality) != ""
    again = pickle.loads(pickle.dumps(after))
    assert {n: {m: again.files(n, m) for m in sorted(again.has(n))} for n in again.names} == scanned


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_start_scans_and_lists_nothing(tmp_path, layout, scans):
    write_layout(tmp_path, DATA, layout)
    index(tmp_path)
    assert scans
    scans.clear()
    assert held(tmp_path) == expected(DATA)
    assert scans == []


@pytest.mark.parametrize("layout", ["tars", "webdataset"])
def test_of_many_shards_only_those_that_have_changed_are_scanned_again(tmp_path, layout, scans):
    write_layout(tmp_path, DATA, layout, shards=6)
    index(tmp_path)
    changed = tmp_path / ("shard-3.tar" if layout == "webdataset" else "a/shard-3.tar")
    mark = ".a" if layout == "webdataset" else ""
    write_tar(changed, {f"{name}{mark}.npy": b"changed" for name in ("0003", "0009", "new")})
    settle(tmp_path)
    os.utime(changed, (OLD + 5, OLD + 5))
    scans.clear()
    _, lines = index(tmp_path)
    assert [name for name in scans if name.endswith(".tar")] == ["shard-3.tar"]
    total = 6 if layout == "webdataset" else 15
    assert lines == [
        f"{tmp_path / INDEX}: out of date; 1 of {total} shards scanned again, such as "
        f"{changed.relative_to(tmp_path)}, the others are as they were"
    ]
    assert held(tmp_path)["new"] == {"a": {"npy": b"changed"}}
    shutil.rmtree(tmp_path / INDEX)
    fresh = held(tmp_path)
    index(tmp_path)
    assert held(tmp_path) == fresh


@pytest.mark.parametrize("what", ["added", "removed", "loose", "folder", "replaced"])
def test_whatever_has_changed_is_noticed(tmp_path, what):
    write_layout(tmp_path, DATA, "mixed")
    index(tmp_path)
    if what == "added":
        write_tar(tmp_path / "late.tar", {"late.a.npy": b"1"})
    elif what == "removed":
        (tmp_path / "shard-0.tar").unlink()
    elif what == "loose":
        (tmp_path / "a/late.npy").write_bytes(b"1")
    elif what == "folder":
        (tmp_path / "a/deep/er").mkdir(parents=True)
        (tmp_path / "a/deep/er/late.npy").write_bytes(b"1")
    else:
        (tmp_path / "a/0000.npy").unlink()
    found = held(tmp_path)
    shutil.rmtree(tmp_path / INDEX)
    assert found == held(tmp_path) != expected(DATA)


def test_what_changed_within_the_resolution_of_the_clock_is_noticed(tmp_path):
    write_tar(tmp_path / "0.tar", {"x.a.npy": b"1", "y.a.npy": b"2"})
    time_of_it = os.stat(tmp_path / "0.tar").st_mtime_ns
    index(tmp_path)
    write_tar(tmp_path / "0.tar", {"y.a.npy": b"2", "x.a.npy": b"1"})
    os.utime(tmp_path / "0.tar", ns=(time_of_it, time_of_it))
    assert held(tmp_path) == expected({"x": {"a": b"1"}, "y": {"a": b"2"}})


def test_a_folder_that_was_only_touched_costs_a_listing_once(tmp_path, scans):
    write_layout(tmp_path, DATA, "loose")
    index(tmp_path)
    os.utime(tmp_path / "b", (5, 5))
    scans.clear()
    assert held(tmp_path) == expected(DATA)
    assert scans == ["b"]
    scans.clear()
    assert held(tmp_path) == expected(DATA)
    assert scans == []


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.write_bytes(os.urandom(len(content)))


@pytest.mark.parametrize("how", ["gone", "cut", "flipped", "noise"])
def test_any_damage_is_said_and_mended(tmp_path, how, caplog):
    write_layout(tmp_path, DATA, "mixed")
    index(tmp_path)
    whole = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / INDEX).rglob("*.*")}
    for name in whole:
        path = tmp_path / name
        if path.name == FILE and how == "flipped":
            continue  # its last byte ends a line
        if len(whole[name]) <= 128:
            continue  # an empty column
        damage(path, how)
        _, lines = index(tmp_path)
        assert len(lines) >= 1
        assert how == "gone" or "damaged" in lines[0], name
        assert {n: (tmp_path / n).read_bytes() for n in whole} == whole
        assert held(tmp_path) == expected(DATA)


def test_a_small_data_set_is_left_alone_and_a_large_one_is_indexed_on_the_way(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    write_layout(tmp_path, DATA, "webdataset")
    held(tmp_path)
    assert not (tmp_path / INDEX).exists()
    monkeypatch.setattr(catalogue, "MANY", 10)
    held(tmp_path)
    assert (tmp_path / INDEX / FILE).exists()
    assert f"{tmp_path / INDEX}: written" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_scanned_at_each_start_and_said(tmp_path, monkeypatch, caplog):
    write_layout(tmp_path, DATA, "webdataset")
    monkeypatch.setattr(catalogue, "MANY", 10)

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(catalogue, "write_index", refuse)
    assert held(tmp_path) == expected(DATA)
    assert "_index: not written (" in caplog.text


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_data_that_cannot_be_written_to_are_read_and_indexing_them_says_so(tmp_path, monkeypatch, caplog, number):
    write_layout(tmp_path, DATA, "mixed")
    monkeypatch.setattr(catalogue, "MANY", 10)
    real, mkdir = os.open, os.mkdir

    def refuse(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *rest, **options)

    def refuse_folder(path, *rest, **options):
        if INDEX in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return mkdir(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "mkdir", refuse_folder)
    assert held(tmp_path) == expected(DATA)
    assert caplog.text.count("the next start scans again") == 1
    with pytest.raises(CannotWrite, match=rf"{INDEX}: cannot be written: {os.strerror(number)}"):
        index(tmp_path)


def test_only_the_first_process_writes_the_index(tmp_path, monkeypatch):
    write_layout(tmp_path, DATA, "webdataset")
    monkeypatch.setattr(catalogue, "MANY", 10)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert held(tmp_path) == expected(DATA)
    assert not (tmp_path / INDEX).exists()


def test_other_modalities_need_no_scan(tmp_path, scans):
    write_layout(tmp_path, DATA, "webdataset")
    index(tmp_path)
    scans.clear()
    some = {"a": MODALITIES["a"]}
    data = AlignedData(tmp_path, some)
    assert data.names == sorted(DATA)
    assert data.counts == {"a": 12}
    assert scans == []


def test_patterns_of_one_folder_share_an_index(tmp_path, scans):
    write_layout(tmp_path, DATA, "webdataset", shards=4)
    first, second = tmp_path / "shard-{0..2}.tar", tmp_path / "shard-{3..3}.tar"
    index(tmp_path)
    for _ in range(2):
        for pattern in (first, second):
            held(pattern)
    scans.clear()
    assert sorted([*held(first), *held(second)]) == sorted(DATA)
    assert held(second) == expected({n: f for i, (n, f) in enumerate(sorted(DATA.items())) if i % 4 == 3})
    assert [name for name in scans if name.endswith(".tar")] == []


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in (root / INDEX).rglob("*") if p.is_file()}


def test_what_a_process_left_that_was_killed_after_writing_is_removed(tmp_path):
    write_layout(tmp_path, DATA, "webdataset", shards=4)
    index(tmp_path)
    whole = contents(tmp_path)
    (tmp_path / INDEX / "members-0123456789abcdef").mkdir()
    (tmp_path / INDEX / "members-0123456789abcdef/flags.npy").touch()
    (tmp_path / INDEX / ".fourm-lock-0").touch()
    index(tmp_path)
    assert contents(tmp_path) == whole


def check_kills(root, kills, seed):
    """Indexing a folder for the first time, and after it has grown, killed each time and then continued."""
    write_layout(root, {f"{i:04d}": {"a": b"%d" % i, "words": b"w"} for i in range(400)}, "mixed", shards=20)
    index(root)
    starts = {"none": {}, "before it grew": contents(root)}
    for folder in ("", "a"):
        write_tar(root / folder / "late.tar", {f"late{folder}.{'a.' * (not folder)}npy": b"1"})
    (root / "a/late-2.npy").write_bytes(b"2")
    settle(root)

    def start(name):
        shutil.rmtree(root / INDEX, ignore_errors=True)
        for path, content in starts[name].items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)

    wholes, truth, longest = {}, held(root), 0.0
    for name in starts:
        start(name)
        began = time.monotonic()
        assert ends(600, index, root)
        wholes[name], longest = contents(root), max(longest, time.monotonic() - began)
    random, killed = np.random.default_rng(seed), 0
    for attempt in range(20 * kills):
        start(name := list(starts)[attempt % 2])
        if ends(random.uniform(0, longest), index, root):
            continue
        killed += 1
        if attempt % 4 > 1:  # another kill while it continues
            ends(random.uniform(0, longest), index, root)
        assert held(root) == truth
        index(root)
        assert contents(root) == wholes[name]
        if killed == kills:
            return
    raise AssertionError(f"{killed} kills of {kills}")


def test_a_few_kills_while_it_is_written_leave_an_index_that_is_right_or_mended(tmp_path):
    check_kills(tmp_path / "data", 4, seed=0)


@pytest.mark.slow
def test_fifty_kills_while_it_is_written_leave_an_index_that_is_right_or_mended(tmp_path):
    check_kills(tmp_path / "data", 50, seed=1)


def test_a_stop_at_every_step_of_writing_leaves_the_old_or_the_new_index(tmp_path):
    root = tmp_path / "data"
    write_layout(root, DATA, "webdataset")
    index(root)
    write_tar(root / "late.tar", {"late.a.npy": b"1"})
    settle(root)
    new = expected({**DATA, "late": {"a": b"1"}})
    steps = 0
    for stop_at in range(100):
        try:
            with stopping_after(stop_at):
                index(root)
        except Stop:
            steps += 1
        else:
            break
        json.loads((root / INDEX / FILE).read_text())
    assert steps > 10
    assert held(root) == new


def _hold(root: Path, ready: object, stop: object) -> None:
    with at_work(root / INDEX):
        ready.set()
        stop.wait(300)


def test_a_second_command_says_who_is_at_work_and_a_run_goes_on_without(tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    write_layout(tmp_path, DATA, "webdataset")
    context = multiprocessing.get_context("fork")
    ready, stop = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, stop))
    other.start()
    try:
        assert ready.wait(300)
        with pytest.raises(Busy, match="is at work here"):
            index(tmp_path)
        monkeypatch.setattr(catalogue, "MANY", 1)
        assert held(tmp_path) == expected(DATA)
        assert "not written" in caplog.text
    finally:
        stop.set()
        other.join()


def test_an_index_that_is_replaced_while_it_is_opened_is_read_anew(tmp_path):
    write_layout(tmp_path, DATA, "webdataset")
    index(tmp_path)
    old = catalogue.DataIndex.read(tmp_path)
    write_tar(tmp_path / "late.tar", {"late.a.npy": b"1"})
    settle(tmp_path)
    index(tmp_path)
    there = catalogue._from_index(old, old.views[0], catalogue.claims_of(SPECS), 1 << 20)
    assert "late" in there.names

"""The cache of remote files: shared, bounded, and never in the way."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from fourm_engine.storage import cache as caches
from fourm_engine.storage.cache import ShardCache, close, copy_name
from fourm_engine.storage.location import open_location

SIZE = 1000


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", 3 * SIZE)


@pytest.fixture(autouse=True)
def warn_anew(monkeypatch):
    monkeypatch.setattr(caches, "_warned", set())


class Fill:
    def __init__(self, byte=b"x", error=None):
        self.byte, self.error, self.calls = byte, error, 0

    def __call__(self, file, patience):
        self.calls += 1
        file.write(self.byte * (SIZE // 2))
        if self.error:
            raise self.error
        file.write(self.byte * (SIZE // 2))


def put(cache, name, fill=None, **options):
    """Whether there is a copy."""
    handle = cache.open(copy_name(name, SIZE, ""), SIZE, fill or Fill(), patience=5, **options)
    if handle is None:
        return False
    close(handle)
    return True


def kept(cache):
    return {path.name[0] for path in cache.folder.glob("*.copy")}


def test_the_least_recently_used_copy_makes_room(cache):
    for name in "abc":
        assert put(cache, name)
        time.sleep(0.01)
    assert put(cache, "a", fill := Fill())
    assert fill.calls == 0
    assert put(cache, "d")
    assert kept(cache) == {"a", "c", "d"}


def test_a_copy_in_use_stays_and_all_in_use_means_reading_without_a_copy(cache, caplog):
    handles = [cache.open(copy_name(name, SIZE, ""), SIZE, Fill(), patience=5) for name in "abc"]
    assert not put(cache, "d")
    assert not put(cache, "e")
    assert [record.message for record in caplog.records] == [
        f"{cache.folder}: all that it may hold is in use; raise data.remote.cache_gb; remote data is read without a "
        f"copy, which is slow"
    ]
    close(handles[1])
    assert put(cache, "d")
    assert kept(cache) == {"a", "c", "d"}
    assert os.pread(handles[0], SIZE, 0) == b"x" * SIZE


def test_the_total_stays_below_the_bound_while_copies_are_made(cache):
    def fill(file, patience):
        assert sum(path.stat().st_size for path in cache.folder.glob("*.[cp]*")) <= cache.max_bytes
        file.write(bytes(SIZE))

    for name in "abcdef":
        assert put(cache, name, fill)


def test_the_files_are_counted_once_however_many_copies_are_made_until_they_reach_the_bound(cache, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(caches.os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    for name in "abc":
        assert put(cache, name)
        time.sleep(0.01)
    assert len(listed) == 1
    assert put(cache, "d")
    assert len(listed) == 2
    assert kept(cache) == {"b", "c", "d"}


def test_of_many_copies_a_few_more_go_than_must_so_that_the_next_need_no_count(cache, monkeypatch):
    monkeypatch.setattr(caches, "_MANY", 3)
    cache.max_bytes = 32 * SIZE
    for number in range(32):
        assert put(cache, f"{number}")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(caches.os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    for number in range(32, 35):
        assert put(cache, f"{number}")
    assert len(listed) == 1
    assert len(list(cache.folder.glob("*.copy"))) == 32


@pytest.mark.parametrize("stored", [b"", b"many", b"%020d" % 0, b"%020d" % (1 << 60)])
def test_a_wrong_count_of_an_earlier_process_does_not_matter(cache, stored):
    for name in "abc":
        assert put(cache, name)
        time.sleep(0.01)
    (cache.folder / caches._GATE).write_bytes(stored)
    assert put(ShardCache(cache.folder, cache.max_bytes), "d")
    assert kept(cache) == {"b", "c", "d"}


def test_files_of_others_in_the_folder_are_left_alone(cache):
    cache.folder.mkdir()
    (cache.folder / "thesis.pdf").write_bytes(bytes(5 * SIZE))
    for name in "abcd":
        assert put(cache, name)
    assert (cache.folder / "thesis.pdf").exists()


def test_a_download_that_fails_leaves_nothing(cache):
    with pytest.raises(ValueError, match="gone"):
        put(cache, "a", Fill(error=ValueError("gone")))
    assert not [path for path in cache.folder.iterdir() if path.suffix in (".part", ".copy")]
    assert put(cache, "a")


@pytest.mark.parametrize(("bound", "lines"), [(0, 0), (SIZE - 1, 1)])
def test_a_cache_too_small_for_a_shard_is_not_used_and_said_once_unless_meant(tmp_path, caplog, bound, lines):
    cache = ShardCache(tmp_path / "cache", bound)
    assert not put(cache, "a")
    assert not put(cache, "b")
    assert not cache.folder.exists()
    assert len(caplog.records) == lines


def test_an_unwritable_cache_is_said_once_and_not_used(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = ShardCache(tmp_path / "file/cache", 3 * SIZE)
    assert not put(cache, "a")
    assert not put(cache, "b")
    assert len(caplog.records) == 1
    assert f"{cache.folder}: cannot be written: Not a directory" in caplog.text


def test_a_full_disk_costs_older_copies_first(cache):
    assert put(cache, "a")

    class FullOnce(Fill):
        def __call__(self, file, patience):
            self.error = OSError(errno.ENOSPC, "No space left on device") if self.calls == 0 else None
            super().__call__(file, patience)

    assert put(cache, "b", FullOnce())
    assert kept(cache) == {"b"}


def test_a_disk_that_stays_full_is_said_once_and_the_cache_is_not_used(cache, caplog):
    for name in "ab":
        assert not put(cache, name, Fill(error=OSError(errno.ENOSPC, "No space left on device")))
    assert len(caplog.records) == 1
    assert "the disk is full; free space" in caplog.text
    assert not kept(cache)


def test_a_file_system_without_locks_is_said_and_the_cache_is_not_used(cache, monkeypatch, caplog):
    monkeypatch.setattr(caches, "lock_file", lambda handle, how: False)
    assert not put(cache, "a")
    assert "data.remote.cache" in caplog.text


def test_a_copy_cut_short_is_made_again(cache):
    assert put(cache, "a")
    os.truncate(next(cache.folder.glob("*.copy")), SIZE // 2)
    assert put(cache, "a", fill := Fill())
    assert fill.calls == 1


KILLED = """
import os, signal, sys
from fourm_engine.storage.cache import ShardCache, copy_name
def fill(file, patience):
    file.write(b"y" * 500)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
ShardCache(sys.argv[1], 3000).open(copy_name("a", 1000, ""), 1000, fill, patience=5)
"""


def test_a_killed_download_blocks_nobody(cache):
    process = subprocess.run([sys.executable, "-c", KILLED, cache.folder], check=False)
    assert process.returncode == -signal.SIGKILL
    assert len(list(cache.folder.glob("*.part"))) == 1
    for name in "bcd":  # what it left counts, and makes room
        assert put(cache, name)
    assert kept(cache) == {"b", "c", "d"}
    subprocess.run([sys.executable, "-c", KILLED, cache.folder], check=False)
    assert put(cache, "a")
    handle = cache.open(copy_name("a", SIZE, ""), SIZE, Fill(), patience=5)
    assert os.pread(handle, SIZE, 0) == b"x" * SIZE
    close(handle)
    assert not list(cache.folder.glob("*.part"))


def _download(url, config, results):
    folder = open_location(url, config)
    with (folder / "a.tar").open() as shard:
        results.put(shard.read(0, shard.size))


def test_processes_that_need_the_same_shard_download_it_once(web, config):
    web.files["a.tar"] = content = os.urandom(300_000)
    web.faults["a.tar"] = ["slow"]  # long enough for all of them to come
    config = config.model_copy(update={"timeout_s": 60})
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_download, args=(web.url, config, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == [content] * 3
    for process in processes:
        process.join()
    assert web.requests["GET a.tar"] == 1


def test_a_reader_may_wait_for_no_other(cache):
    held = []

    def fill(file, patience):
        held.append(put(cache, "a", wait=False))
        file.write(bytes(SIZE))

    assert put(cache, "a", fill)
    assert held == [False]


def test_a_forked_worker_reads_on_and_holds_no_copy_of_its_parent(web, config):
    web.files |= {"a.tar": b"a" * SIZE, "b.tar": b"b" * SIZE}
    config = config.model_copy(update={"cache_gb": 1.5 * SIZE / 2**30})
    folder = open_location(web.url, config)
    shard = (folder / "a.tar").open()
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, shard.read(0, 3))
        time.sleep(600)
        os._exit(0)
    try:
        assert os.read(read, 3) == b"aaa"
        shard.close()
        os.kill(child, signal.SIGSTOP)
        assert (folder / "b.tar").local() is None  # the child has opened its own
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (folder / "b.tar").local() is not None


def test_an_idle_forked_worker_holds_nothing(web, config):
    web.files |= {"a.tar": b"a" * SIZE, "b.tar": b"b" * SIZE}
    folder = open_location(web.url, config.model_copy(update={"cache_gb": 1.5 * SIZE / 2**30}))
    shard = (folder / "a.tar").open()
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, b"x")
        time.sleep(600)
        os._exit(0)
    try:
        assert os.read(read, 1) == b"x"
        shard.close()
        assert (folder / "b.tar").local() is not None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_evicting_a_copy_does_not_disturb_who_has_it_mapped(web, config):
    import numpy as np

    web.files |= {f"{name}.tar": name.encode() * SIZE for name in "abcdefghijkl"}
    folder = open_location(web.url, config.model_copy(update={"cache_gb": 10.5 * SIZE / 2**30}))
    mapped = np.memmap((folder / "a.tar").local(), np.uint8, "r")
    for name in "bcdefghijkl":
        assert (folder / f"{name}.tar").local().exists()
    assert not list(config.cache.glob("a.tar-*"))
    assert bytes(mapped) == b"a" * SIZE

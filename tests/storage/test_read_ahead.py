"""Threads that read ahead end with whoever planned, in every process, and hold nothing alive."""

from __future__ import annotations

import os
import pickle
import threading
import weakref

import pytest

from fourm_engine.storage import read_ahead
from fourm_engine.storage.location import open_location
from fourm_engine.storage.read_ahead import THREADS, ReadAhead
from fourm_engine.storage.remote import Shard

LONG = 60.0  # seconds; nothing here waits for it but a failure


class Owner:
    def __init__(self):
        self.ahead: ReadAhead[int] = ReadAhead(8)
        self.done, self.go_on, self.fetched = threading.Semaphore(0), threading.Event(), []

    def fetch(self, item):
        self.fetched.append(item)
        self.done.release()
        assert self.go_on.wait(LONG)


@pytest.fixture
def started():
    """The threads that a test has started."""
    before = set(threading.enumerate())
    return lambda: [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("read-ahead")]


def ended(threads):
    for thread in threads:
        thread.join(LONG)
    return not any(thread.is_alive() for thread in threads)


def test_threads_end_with_their_owner_which_they_do_not_keep_alive(started):
    owner, alive = Owner(), None
    owner.go_on.set()
    owner.ahead.plan([1, 2, 3], owner.fetch)
    threads = started()
    assert len(threads) == THREADS
    for _ in range(3):
        assert owner.done.acquire(timeout=LONG)
    assert sorted(owner.fetched) == [1, 2, 3]
    alive = weakref.ref(owner)
    del owner
    assert ended(threads)
    assert alive() is None


def test_what_is_needed_now_comes_before_what_waits_and_has_room(monkeypatch):
    monkeypatch.setattr(read_ahead, "THREADS", 1)
    owner = Owner()
    assert owner.ahead.plan([0], owner.fetch) == 1
    assert owner.done.acquire(timeout=LONG)
    assert owner.ahead.plan(range(1, 20), owner.fetch) == 8
    assert owner.ahead.plan([8, 3, 50, 0, *range(60, 80)], owner.fetch, now=True) == 24
    owner.go_on.set()
    for _ in range(8 + 21):
        assert owner.done.acquire(timeout=LONG)
    assert owner.fetched == [0, 8, 3, 50, *range(60, 80), 1, 2, 4, 5, 6, 7]


def test_an_owner_that_goes_away_during_a_fetch_ends_the_threads_after_it(started):
    owner = Owner()
    owner.ahead.plan(range(8), owner.fetch)
    threads, go_on, fetched = started(), owner.go_on, owner.fetched
    for _ in range(THREADS):
        assert owner.done.acquire(timeout=LONG)
    del owner
    go_on.set()
    assert ended(threads)
    assert len(fetched) <= 8


def test_what_is_closed_fetches_no_more_and_may_plan_again(started):
    owner = Owner()
    owner.go_on.set()
    owner.ahead.plan([1], owner.fetch)
    assert owner.done.acquire(timeout=LONG)
    threads = started()
    owner.ahead.close()
    owner.ahead.close()
    assert ended(threads)
    owner.ahead.plan([1], owner.fetch)
    assert owner.done.acquire(timeout=LONG)
    assert owner.fetched == [1, 1]


def test_a_fork_ends_no_thread_of_its_parent_and_starts_its_own(started):
    owner = Owner()
    owner.go_on.set()
    owner.ahead.plan([1], owner.fetch)
    assert owner.done.acquire(timeout=LONG)
    threads = started()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            owner.ahead.plan([2], owner.fetch)
            code = 0 if owner.done.acquire(timeout=LONG) and owner.fetched == [1, 2] else 2
            del owner
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(thread.is_alive() for thread in threads)
    assert pickle.loads(pickle.dumps(owner.ahead))._queue is None


def test_a_remote_folder_that_is_dropped_leaves_no_thread(web, config, started):
    web.files["data/a.tar"] = bytes(1000)
    folder = open_location(f"{web.url}/data", config)
    folder.ahead([Shard("a.tar", 1000)])
    threads = started()
    assert len(threads) == THREADS
    (folder / "a.tar").local(1000)
    del folder
    assert ended(threads)

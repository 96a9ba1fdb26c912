"""What processes know of one another through files, whatever the clocks of machines and file systems show."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from fourm_engine.train.heartbeat import Heartbeats

#: Of a process that lives, and is another one.
FACTS = {"pid": os.getppid(), "started_tick": None, "progress": 1, "step": 2, "activity": "computing"}


@pytest.fixture
def signs(tmp_path, monkeypatch):
    """From a rank to its signs, in a run of three."""
    monkeypatch.setenv("WORLD_SIZE", "3")

    def make(rank: int) -> Heartbeats:
        monkeypatch.setenv("RANK", str(rank))
        made = Heartbeats(tmp_path / "run" / "processes")
        made.start(FACTS)
        return made

    return make


def seen(one: Heartbeats) -> dict[int, tuple[int | None, float]]:
    """Rank -> (the step that it is at, None if it never gave a sign; seconds without a new sign)."""
    return {number: (facts and facts["step"], age) for number, facts, age in one.others()}


def test_silence_is_counted_by_the_clock_of_who_listens(signs):
    first, second = signs(0), signs(1)
    second.beat(FACTS)
    assert seen(first) == {1: (2, 0), 2: (None, 0)}
    first.clock = 30
    assert seen(first) == {1: (2, 30), 2: (None, 30)}
    path = second.folder / "rank-00001.json"
    for skew in (-3600, 3600):
        second.beat(FACTS)
        os.utime(path, (time.time() + skew,) * 2)
        assert seen(first)[1] == (2, 0)


def test_a_full_disk_keeps_signs_of_life_from_nobody(signs, monkeypatch):
    first, second = signs(0), signs(1)
    assert seen(first)[1] == (2, 0)
    first.clock = 30

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_text", full)
        second.beat(FACTS | {"step": 3})
        assert seen(first)[1] == (2, 0)  # what it says is old, but it lives
        with pytest.raises(OSError, match="No space left"):  # a start is refused
            signs(2)


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_what_an_earlier_start_left_is_no_sign_until_it_changes(signs, host):
    signs(1).beat(FACTS | {"pid": 2**22 + 1})  # of a process that is gone
    path = signs(0).folder / "rank-00001.json"
    left = json.loads(path.read_text()) | {"pid": 2**22 + 1} | ({"host": host} if host else {})
    path.write_text(json.dumps(left))
    first = signs(0)
    assert seen(first)[1] == (None, 0)
    signs(1).beat(FACTS | {"step": 0})
    assert seen(first)[1] == (0, 0)


def test_one_that_is_unreadable_for_a_moment_is_as_it_was(signs):
    first, second = signs(0), signs(1)
    second.beat(FACTS)
    seen(first)
    (second.folder / "rank-00001.json").write_text("[")
    first.clock = 5
    assert seen(first)[1] == (2, 5)


def test_the_last_one_to_leave_removes_what_the_first_one_made(signs):
    first, second = signs(0), signs(1)
    for one in (first, second):
        one.beat(FACTS)
    first.beat(FACTS, end="")
    first.clean()
    assert first.folder.exists()
    second.beat(FACTS, end="")
    second.clean()
    assert not first.folder.parent.exists()


def test_one_that_comes_when_the_others_have_left_makes_the_folder_again(signs):
    first, second = signs(0), signs(1)
    (second.folder / "rank-00001.json").unlink()  # as before its first sign
    first.beat(FACTS, end="")
    first.folder.parent.joinpath("config.yaml").touch()  # the run's folder stays
    first.clean()
    assert not first.folder.exists()
    second.beat(FACTS)
    assert json.loads((second.folder / "rank-00001.json").read_text())["step"] == 2


def test_one_that_comes_later_reads_why_the_first_one_failed(signs):
    first = signs(0)
    first.beat(FACTS, end="ValueError: no such plugin")
    first.clean("ValueError: no such plugin")
    assert json.loads((first.folder / "rank-00000.json").read_text())["end"] == "ValueError: no such plugin"


def test_a_thread_that_goes_on_does_not_take_back_how_its_process_ends(signs):
    first, second = signs(0), signs(1)
    second.beat(FACTS, "lost: rank 2", "rank 2 is lost")
    second.beat(FACTS)
    (facts, *_) = (facts for number, facts, _ in first.others() if number == 1)
    assert (facts["end"], facts["because"]) == ("lost: rank 2", "rank 2 is lost")

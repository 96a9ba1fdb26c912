"""A long command says how much is done, how fast, and how long it will take; one process of many does."""

import pytest

from fourm_engine.recipes import progress
from fourm_engine.recipes.progress import Progress, first_only, print_line


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_has_the_rate_and_the_time_left(clock, capsys):
    said = Progress("train")
    for seconds, done in ((1, 100), (10, 20000), (15, 30000), (20, 40000)):
        clock[0] = seconds
        said(done, 120000)
    assert capsys.readouterr().out.splitlines() == [
        "train: 20,000/120,000, 2,000 samples/s, 0:50 left",
        "train: 40,000/120,000, 2,000 samples/s, 0:40 left",
    ]


def test_slow_work_is_told_in_fractions_and_hours_and_other_processes_are_silent(clock, capsys, monkeypatch):
    first = Progress("photos: some", first_only(print_line))
    monkeypatch.setenv("RANK", "1")
    second = Progress("photos: some", first_only(print_line))
    clock[0] = 10
    for said in (first, second):
        said(0, 9000)
        said(5, 9000)
    assert capsys.readouterr().out == "photos: some: 5/9,000, 0.50 samples/s, 4:59:50 left\n"

"""Torch gives up on a process that is late only after the watchdog has said which one."""

from __future__ import annotations

import pytest

from fourm_engine.train.distributed import PATIENCE, patience


@pytest.mark.parametrize(("watchdog_s", "seconds"), [(600.0, PATIENCE.total_seconds()), (36_000.0, 72_000.0)])
def test_collectives_outlast_the_watchdog(watchdog_s, seconds):
    assert patience(watchdog_s).total_seconds() == seconds >= 2 * watchdog_s


def test_without_a_watchdog_they_wait_for_days():
    assert patience(None).days == 7

"""`fourm sweep` and `fourm suite`, killed or stopped at random moments, end with the results and files of undisturbed
ones."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import yaml

from fourm_engine.sweep.suite import Suite
from fourm_engine.sweep.sweep import sweep
from tests.killing import ends
from tests.running import silent
from tests.sweep.test_suite import BODY, PROBE, TASK

#: Trials end with the command that started them (`fourm_engine.cli.child`), and may be killed while they work.
WITH_PARENT = """
import threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(143), daemon=True).start()
time.sleep(0.05)
"""
KILLS = 6


def of_sweep(sweeps):
    sweeps.program(WITH_PARENT + "trained(lr + seed / 100)")
    path = sweeps.file(grid={"train.lr": [0.1, 0.2, 0.3]}, seeds=[0, 1])
    return lambda: sweep(path, jobs=2, print_fn=silent)


def of_suite(sweeps):
    sweeps.program(WITH_PARENT + BODY)
    raw = {"out": "out", "encoders": {"scratch": {}, "4m": {"train": "base.yaml"}}, "seeds": [0, 1]}
    path = sweeps.home / "suite.yaml"
    path.write_text(yaml.safe_dump(raw | {"tasks": {"depth": TASK, "classes": PROBE}}, sort_keys=False))
    return lambda: Suite(path.relative_to(sweeps.home), print_fn=silent).run(jobs=2)


def left(out):
    """The files of a study, and its results."""
    (results,) = (json.loads(path.read_text()) for path in out.glob("*.json") if path.stem in ("sweep", "suite"))
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*")), results


@pytest.mark.parametrize("study", [of_sweep, of_suite])
def test_kills_at_random_moments_change_neither_the_results_nor_the_files(sweeps, tmp_path, study):
    run, out, rng, killed = study(sweeps), tmp_path / "out", np.random.default_rng(0), 0
    assert ends(300, run)
    expected = left(out)
    shutil.rmtree(out)
    for _ in range(20 * KILLS):
        number = (signal.SIGKILL, signal.SIGTERM)[killed % 2]
        if not ends(rng.uniform(0, 1), run, number=number):
            killed += 1
            continue
        assert left(out) == expected
        if killed >= KILLS:
            return
        shutil.rmtree(out)
    raise AssertionError(f"{killed} kills of {KILLS}")

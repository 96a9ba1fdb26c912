"""`fourm train`, killed at fifty random moments, leaves the files that an undisturbed run leaves."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.tokenize import tokenize
from fourm_engine.recipes.train import train
from tests.killing import ends
from tests.recipes.test_recipes import config
from tests.running import rows, silent

__all__ = ["config"]
#: What a row of the metrics says of the machine.
MEASURED = ("samples_per_s", "tokens_per_s", "flops_per_s", "mfu", "data_wait", "memory_gib", "seconds", "seconds_left")


def trained(config, run):
    train(config.model_copy(update={"run": run}), print_fn=silent)


def left(run):
    """Files of the exported model, and the rows of the metrics without what the clock says."""
    model = {p.relative_to(run).as_posix(): p.read_bytes() for p in (run / "model").rglob("*") if p.is_file()}
    kept = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows(run)]
    return model, kept


@pytest.mark.slow
def test_fifty_kills_change_no_byte_of_the_model_and_no_loss(config, tmp_path):
    fit(config, print_fn=silent)
    data = config.data.model_copy(update={"val": config.data.train})
    settings = config.train.model_copy(update={"steps": 12, "checkpoint_every": 3, "log_every": 1, "eval_every": 4})
    config = config.model_copy(update={"data": data, "train": settings})
    tokenize(config, print_fn=silent, warn=silent)
    began = time.monotonic()
    assert ends(600, trained, config, tmp_path / "whole")
    whole, rng, killed = time.monotonic() - began, np.random.default_rng(0), 0
    for _ in range(1000):
        if ends(rng.uniform(0, whole), trained, config, tmp_path / "killed"):
            assert left(tmp_path / "killed") == left(tmp_path / "whole")
            if killed >= 50:
                return
            shutil.rmtree(tmp_path / "killed")
        else:
            killed += 1
    raise AssertionError(f"{killed} kills of 50")

"""A token shard that is cut short in the midst of a run ends it with a line and keeps the checkpoints."""

from __future__ import annotations

import multiprocessing
import os
import time

from fourm_engine.recipes.fit import fit
from fourm_engine.recipes.tokenize import tokenize
from fourm_engine.recipes.train import train
from tests.recipes.test_recipes import config
from tests.running import silent

__all__ = ["config"]


def trained(config, told):
    try:
        train(config, print_fn=silent)
    except ValueError as error:
        told.write_text(str(error))
        os._exit(1)


def test_a_token_shard_that_is_cut_short_ends_a_run_with_a_line(config, tmp_path):
    fit(config, print_fn=silent)
    tokenize(config, print_fn=silent, warn=silent)
    run, told = tmp_path / "cut", tmp_path / "told"
    settings = config.train.model_copy(update={"steps": 100_000, "checkpoint_every": 1})
    config = config.model_copy(update={"run": run, "train": settings})
    process = multiprocessing.get_context("fork").Process(target=trained, args=(config, told))
    process.start()
    try:
        ending = time.monotonic() + 240
        while not list((run / "checkpoints").glob("step-*")):
            assert process.is_alive()
            assert time.monotonic() < ending
            time.sleep(0.05)
        for shard in config.data.tokens.rglob("shard-*.safetensors"):
            os.truncate(shard, 100)
        process.join(240)
        assert process.exitcode == 1  # not -SIGBUS
    finally:
        process.kill()
    assert "was cut short while it was in use (100 bytes instead of" in told.read_text()
    assert "remove it and run `fourm tokenize` again" in told.read_text()
    assert list((run / "checkpoints").glob("step-*"))

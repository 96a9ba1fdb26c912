"""Whatever moment a run is killed at, with its data in token shards and tars beside their index: it goes on to the very
same weights."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.tokens.index import INDEX_FOLDER
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.train.loop import Trainer
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data
from tests.killing import ends
from tests.pretrain.fourm_run import config, make_task

STEPS = 12


@pytest.fixture
def data(tmp_path):
    modalities = fake_modalities()
    names = sample_names(24)
    write_data(tmp_path / "train", modalities, {"a": names, "b": names[4:], "words": names}, tar=True)
    open_catalogue(tmp_path / "train", [modality.spec for modality in modalities.values()], index=True)
    settings = DataConfig(shard_size=5, views=2, augment=True)
    raw = AlignedData(tmp_path / "train", modalities)
    tokenize_split(raw, tmp_path / "tokens/train", fake_tokenizers(modalities), settings)
    return tmp_path


def trained(data, run, workers=0):
    settings = {"val": None, "tokens": data / "tokens", "views": 2, "augment": True}
    task = make_task(data, workers=workers, **settings)
    Trainer(task, config(steps=STEPS, checkpoint_every=3, warmup=0), run, seed=3).run()


def result(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["losses"]) for line in lines if "losses" in line]
    return losses, load_file(run / "model/model.safetensors")


def check(data, kills, seed):
    began = time.monotonic()
    trained(data, data / "whole")
    whole, rng, killed = time.monotonic() - began, np.random.default_rng(seed), 0
    for attempt in range(20 * kills):
        if killed >= kills:
            break
        if attempt % 4 == 3:  # an index that has to be made anew
            shutil.rmtree(data / "tokens/train" / INDEX_FOLDER, ignore_errors=True)
        if ends(rng.uniform(0, whole), trained, data, data / "killed", attempt % 3):
            shutil.rmtree(data / "killed")
        else:
            killed += 1
    assert killed == kills
    assert ends(600, trained, data, data / "killed")
    (losses, weights), (others, same) = result(data / "killed"), result(data / "whole")
    assert losses == others  # and no step twice
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_run_that_is_killed_twice_while_it_trains_on_token_shards_is_the_same(data):
    check(data, 2, seed=0)


@pytest.mark.slow
def test_a_run_that_is_killed_fifty_times_while_it_trains_on_token_shards_is_the_same(data):
    check(data, 50, seed=1)

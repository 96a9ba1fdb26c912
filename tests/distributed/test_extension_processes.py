"""Extending a model on two processes, killed on the way: the losses and the report of one process."""

import json

import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.extend.report import Report
from fourm_engine.tokenizers import store
from tests.distributed.launching import launch
from tests.extend.growing import Host, extend, prepare, run_config
from tests.running import losses


def test_two_processes_sharded_and_killed_end_where_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PluginManager", Host)
    prepare(tmp_path)
    changes = {"extend": {"add": ["b", "pair"], "train": "lora"}}
    extend(run_config(tmp_path, tmp_path / "one", **changes))
    arguments = "extend/growing.py", str(tmp_path), str(tmp_path / "two")
    launch(*arguments, json.dumps(changes | {"parallel": "shard", "kill_at": 3}), world=2, fail=True)
    assert (tmp_path / "two/checkpoints/step-00000002").is_dir()
    said = launch(*arguments, json.dumps(changes | {"parallel": "shard"}), world=2)
    assert "continuing after step 2" in said
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    one, two = (load_file(tmp_path / run / "model/model.safetensors") for run in ("one", "two"))
    base = load_file(tmp_path / "base/model/model.safetensors")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-3, rtol=1e-3)
    for name in ("embedding.encoder_table", "heads.weight"):
        assert torch.equal(two[name][: len(base[name])], base[name])
    reports = [Report.load(tmp_path / run / "extend.json") for run in ("one", "two")]
    for a, b in zip(*(report.rows for report in reports), strict=True):
        assert (a.case, a.modality, a.samples, a.tokens) == (b.case, b.modality, b.samples, b.tokens)
        assert (a.before, a.after) == pytest.approx((b.before, b.after), abs=1e-3)
    assert reports[0].trained_parameters == reports[1].trained_parameters

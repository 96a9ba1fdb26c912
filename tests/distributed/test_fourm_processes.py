"""The 4M task on two processes follows one process."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import launch
from tests.fakes import fake_modalities, sample_names, write_data
from tests.running import rows

#: What the runs show of themselves.
WATCHED = {"pairs_every": 20, "pictures_every": 10, "profile": [2, 3]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    names = sample_names(20)
    write_data(root / "train", fake_modalities(), {"a": names, "b": names[:12], "words": names})
    write_data(root / "val", fake_modalities(), sample_names(9, start=100))
    return root


@pytest.fixture(scope="module")
def single(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("single")
    launch("pretrain/fourm_run.py", str(data), str(run), json.dumps(WATCHED), world=1)
    return run


@pytest.mark.parametrize("changes", [{}, {"parallel": "shard", "accumulate": 2}], ids=["replicate", "shard"])
def test_two_processes_follow_the_losses_of_one_and_show_the_same(data, single, tmp_path, changes):
    launch("pretrain/fourm_run.py", str(data), str(tmp_path), json.dumps(WATCHED | changes), world=2)
    two, one = rows(tmp_path), rows(single)
    assert len(one) == 22
    matrices = [next(row["pairs"] for row in run if "pairs" in row) for run in (two, one)]
    assert matrices[0].keys() == matrices[1].keys()
    for given, row in matrices[1].items():
        assert matrices[0][given] == pytest.approx(row, abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "profile").glob("*.gz")) == ["rank-0.json.gz", "rank-1.json.gz"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["step-10.png", "step-20.png"]
    two, one = ([row for row in run if "pairs" not in row] for run in (two, one))
    for ours, theirs in zip(two[:20], one[:20], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-4)
    assert two[20]["eval"] == pytest.approx(one[20]["eval"], abs=1e-3)
    first, second = (load_file(run / "model/model.safetensors") for run in (tmp_path, single))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_mixture_in_lanes_goes_on_exactly_with_another_number_of_processes(data, tmp_path):
    sets = [{"path": str(data / "train"), "weight": 3}, {"path": str(data / "val"), "weight": 1}]
    settings = {"schedule": "constant", "data": {"train": sets, "val": None, "lanes": 4}}
    launch("pretrain/fourm_run.py", str(data), str(tmp_path / "whole"), json.dumps(settings), world=1)
    launch("pretrain/fourm_run.py", str(data), str(tmp_path / "parts"), json.dumps({**settings, "steps": 10}), world=1)
    launch("pretrain/fourm_run.py", str(data), str(tmp_path / "parts"), json.dumps(settings), world=2)
    whole, parts = ([row for row in rows(tmp_path / name) if "loss" in row] for name in ("whole", "parts"))
    assert len(whole) == len(parts) == 20
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours["tokens_per_s"] > 0
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-4)
    three = launch(
        "pretrain/fourm_run.py",
        str(data),
        str(tmp_path / "three"),
        json.dumps({**settings, "batch_size": 12}),
        world=3,
        fail=True,
    )
    assert "data.lanes=4 cannot be shared by 3 processes" in three

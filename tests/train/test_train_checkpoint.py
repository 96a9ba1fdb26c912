import json
import resource
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from fourm_engine.train.checkpoint import CheckpointError, load, open_checkpoint
from fourm_engine.train.saving import Checkpoints


def tensors(value: float) -> dict[str, torch.Tensor]:
    shared = torch.full((3, 2), value)
    return {
        "model/a": shared,
        "model/tied": shared,
        "optimiser/a/step": torch.tensor(value),
        "model/n": torch.tensor([7]),
    }


@pytest.fixture
def checkpoints(tmp_path):
    said = []
    found = Checkpoints(tmp_path, keep=2, report=said.append)
    found.said = said
    return found


def test_what_was_saved_is_read_back_with_its_state(checkpoints):
    assert checkpoints.newest() is None
    checkpoints.save(5, tensors(2.0), {"note": "x"})
    checkpoints.finish()
    assert checkpoints.saved == 5
    newest = checkpoints.newest()
    assert (newest.step, newest.state) == (5, {"note": "x"})
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors(0.0).items()}
    load(newest, into)
    for name, tensor in tensors(2.0).items():
        assert torch.equal(into[name], tensor)


def test_a_save_holds_the_values_of_its_moment(checkpoints):
    changing = tensors(1.0)
    checkpoints.save(1, changing, {})
    changing["model/a"].fill_(9.0)
    checkpoints.finish()
    into = {"model/a": torch.zeros(3, 2)}
    load(checkpoints.newest(), into)
    assert torch.equal(into["model/a"], torch.ones(3, 2))


def test_the_files_are_safetensors_and_json_alone(checkpoints, tmp_path):
    checkpoints.save(1, tensors(1.0), {})
    checkpoints.finish()
    names = sorted(p.name for p in (tmp_path / "step-00000001").iterdir())
    assert names == ["part-00000-of-00001.safetensors", "state.json"]
    with safe_open(tmp_path / "step-00000001" / names[0], framework="pt") as file:
        assert set(file.keys()) == set(tensors(1.0))


def test_tensors_that_do_not_fit_are_refused_by_name(checkpoints):
    checkpoints.save(1, tensors(1.0), {})
    checkpoints.finish()
    newest = checkpoints.newest()
    with pytest.raises(CheckpointError, match=r"model/a: shape \[3, 2\] in the checkpoint, \[3, 4\] in the model"):
        load(newest, {"model/a": torch.zeros(3, 4)})
    with pytest.raises(CheckpointError, match="lacks model/b"):
        load(newest, {"model/b": torch.zeros(1)})
    load(newest, {"ema/b": torch.zeros(1)}, optional="ema/")


def test_a_state_that_names_files_elsewhere_is_refused(checkpoints, tmp_path):
    checkpoints.save(1, tensors(1.0), {})
    checkpoints.finish()
    path = tmp_path / "step-00000001" / "state.json"
    document = json.loads(path.read_text())
    document["files"] = {"../outside.safetensors": 0}
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(path.parent)


def test_a_save_beyond_what_the_disk_takes_is_reported_and_leaves_the_earlier_one(tmp_path):
    """With a real limit of the operating system on the size of files, so that the error is a real one."""
    program = f"""
import resource, signal, torch
from pathlib import Path
from fourm_engine.train.saving import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(Path({str(tmp_path)!r}), keep=2, report=print)
checkpoints.save(1, {{"a": torch.ones(10)}}, {{}})
checkpoints.finish()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
checkpoints.save(2, {{"a": torch.ones(100_000)}}, {{}})
checkpoints.finish()
assert checkpoints.saved == 1
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint not saved: {tmp_path}/step-00000002.part" in done.stdout
    assert "File too large; free space or choose another folder" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]

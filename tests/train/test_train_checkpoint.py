import json
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fourm_engine.data.columns import sealed, unsealed
from fourm_engine.train import checkpoint_manager
from fourm_engine.train.checkpoint import (
    FORMAT,
    ROWS,
    CheckpointError,
    OtherFormat,
    facts_of,
    load,
    open_checkpoint,
    part_name,
    state_of,
)
from fourm_engine.train.checkpoint_manager import CheckpointManager
from fourm_engine.train.config import TrainConfig


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
    found = CheckpointManager(tmp_path, keep=2, report=said.append)
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


def test_a_run_whose_working_directory_was_removed_ends_at_the_next_checkpoint(tmp_path, monkeypatch):
    """No later one could be saved either."""
    place, said = tmp_path / "place", []
    place.mkdir()
    monkeypatch.chdir(place)
    checkpoints = CheckpointManager(Path("run/checkpoints"), keep=2, report=said.append)
    checkpoints.save(1, tensors(1.0), {})
    checkpoints.finish()
    shutil.rmtree(place)
    checkpoints.save(2, tensors(1.0), {})
    with pytest.raises(CheckpointError, match=r"was started in was removed; start it again .*removed, with their fold"):
        checkpoints.finish()
    assert not said
    monkeypatch.chdir(tmp_path)


def test_a_folder_that_was_removed_is_not_said_to_hold_earlier_checkpoints(checkpoints, tmp_path):
    checkpoints.save(1, tensors(1.0), {})
    checkpoints.finish()
    shutil.rmtree(tmp_path)
    tmp_path.write_text("a file")
    checkpoints.save(2, tensors(1.0), {})
    checkpoints.finish()
    assert checkpoints.said[0].endswith("Earlier ones were removed, with their folder")


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
    for name in ("model/a", "optimiser/a/step"):
        doubled = {**tensors(0.0), name: tensors(0.0)[name].double()}
        with pytest.raises(CheckpointError, match=f"{name}: float32 in the checkpoint, float64 in the model"):
            load(newest, doubled)


def rewrite(path, **changes):
    """Of a state, as somebody does who knows of its checksum."""
    path.write_text(sealed(unsealed(path.read_bytes(), FORMAT) | changes))


def edit(path, before, after):
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"), [('"skipped": 0', '"skipped": 7'), ('"lr": 0.1', '"lr": 0.2'), ('"ema": false', '"ema": true')]
)
def test_an_edited_state_is_noticed_though_it_is_well_formed(checkpoints, tmp_path, before, after):
    state = {"identity": {}, "versions": {}, "config": {"lr": 0.1}, "progress": {"skipped": 0}, "ema": False}
    for step in (1, 2):
        checkpoints.save(step, tensors(1.0), state)
    checkpoints.finish()
    path = tmp_path / "step-00000002/state.json"
    edit(path, before, after)
    assert checkpoints.newest().step == 1
    assert checkpoints.said == [
        f"passed over: {path}: not a checkpoint's state, damaged or edited: other content than was written; "
        "1 step after step 1 is computed again"
    ]


def test_a_state_whose_spaces_alone_differ_is_the_same(checkpoints, tmp_path):
    checkpoints.save(1, tensors(1.0), {"numbers": {2: 0.1, 10: float("nan")}, "é": [1, None]})
    checkpoints.finish()
    path = tmp_path / "step-00000001/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")))
    assert open_checkpoint(path.parent).state["numbers"]["2"] == 0.1


def test_a_checkpoint_of_another_version_is_said_to_be_so(checkpoints, tmp_path):
    checkpoints.save(1, tensors(1.0), {})
    checkpoints.finish()
    path = tmp_path / "step-00000001/state.json"
    for format, remedy in ((FORMAT - 1, "train anew in another `run` folder"), (FORMAT + 1, "update fourm-engine")):
        edit(path, f'"format": {json.loads(path.read_text())["format"]}', f'"format": {format}')
        with pytest.raises(OtherFormat, match=rf"of another version \(format {format}, .*\); {remedy}"):
            open_checkpoint(path.parent)


def test_a_state_that_names_files_elsewhere_is_refused(checkpoints, tmp_path):
    checkpoints.save(1, tensors(1.0), {})
    checkpoints.finish()
    path = tmp_path / "step-00000001" / "state.json"
    rewrite(path, files={"../outside.safetensors": 0})
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(path.parent)


def test_a_save_beyond_what_the_disk_takes_is_reported_and_leaves_the_earlier_one(tmp_path):
    """With a real limit of the operating system on the size of files, so that the error is a real one."""
    program = f"""
import resource, signal, torch
from pathlib import Path
from fourm_engine.train.checkpoint_manager import CheckpointManager
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = CheckpointManager(Path({str(tmp_path)!r}), keep=2, report=print)
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
    assert "File too large; raise the limit on the size of files (ulimit -f), or choose another folder. " in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def saved(checkpoints: CheckpointManager, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, tensors(float(step)), {})
    checkpoints.finish()


def test_a_changed_byte_is_noticed_and_the_checkpoint_before_is_taken(checkpoints, tmp_path):
    saved(checkpoints, 1, 2)
    part = tmp_path / "step-00000002/part-00000-of-00001.safetensors"
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    assert checkpoints.newest().step == 1
    assert checkpoints.said == [
        f"passed over: {part}: not the file that was saved, damaged or truncated; 1 step after step 1 is computed again"
    ]
    saved(checkpoints, 3)  # keeps two that are whole
    assert open_checkpoint(tmp_path / "step-00000001").step == 1
    saved(checkpoints, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def lie(folder, parts, **rows):
    """Parts whose headers say these `rows` of `model/a`, with a state that fits them."""
    old = next(folder.glob("part-*"))
    kept = load_file(old)
    old.unlink()
    names = [part_name(number, parts) for number in range(parts)]
    for name in names:
        save_file({"model/a": kept["model/a"]}, folder / name, metadata={ROWS: json.dumps({"model/a": rows["rows"]})})
    rewrite(folder / "state.json", files={name: facts_of(folder / name) for name in names})


@pytest.mark.parametrize("rows", [[1, 3], [-1, 3], [0.5, 3], [0, 10**12], ["0", 3], [0, True]])
def test_a_part_that_lies_about_its_rows_is_refused_by_name(checkpoints, tmp_path, rows):
    saved(checkpoints, 1)
    lie(tmp_path / "step-00000001", 1, rows=rows)
    with pytest.raises(CheckpointError, match=r"part-00000-of-00001\.safetensors: model/a: (rows from|shape)"):
        load(checkpoints.newest(), {"model/a": torch.zeros(3, 2)})


def test_parts_that_hold_the_same_rows_twice_and_others_not_at_all_are_refused(checkpoints, tmp_path):
    saved(checkpoints, 1)
    lie(tmp_path / "step-00000001", 2, rows=[0, 6])
    with pytest.raises(CheckpointError, match="lacks model/a"):
        load(checkpoints.newest(), {"model/a": torch.zeros(6, 2)})


def test_a_missing_part_is_noticed(checkpoints, tmp_path):
    saved(checkpoints, 1)
    path = tmp_path / "step-00000001/state.json"
    (facts,) = json.loads(path.read_text())["files"].values()
    rewrite(path, files={f"part-0000{i}-of-00003.safetensors": facts for i in (0, 2)})
    with pytest.raises(CheckpointError, match=r"state\.json: parts are missing"):
        open_checkpoint(path.parent)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_trained_anew(checkpoints, tmp_path):
    saved(checkpoints, 1, 2)
    for path in tmp_path.glob("*/state.json"):
        path.write_text("{")
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is whole, see above"):
        checkpoints.newest()
    assert len(checkpoints.said) == 2


def test_every_nth_checkpoint_stays_beside_the_newest(tmp_path):
    saved(CheckpointManager(tmp_path, keep=2, keep_every=30, report=print), *range(10, 100, 10))
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [30, 60, 80, 90]
    with pytest.raises(ValueError, match="keep_every=25 and checkpoint_every=10: make the first a multiple"):
        TrainConfig(batch_size=1, steps=1, lr=1, checkpoint_every=10, keep_every=25)


def test_training_goes_on_while_a_checkpoint_is_written(checkpoints, monkeypatch):
    may_write = threading.Event()
    real = checkpoint_manager.save_file

    def slow(*arguments, **options):
        assert may_write.wait(300)
        real(*arguments, **options)

    monkeypatch.setattr(checkpoint_manager, "save_file", slow)
    checkpoints.save(1, tensors(1.0), {})
    assert checkpoints.saved is None
    may_write.set()
    checkpoints.finish()
    assert checkpoints.saved == 1


def test_what_several_processes_hold_alike_is_shared_out_among_them(monkeypatch):
    held = {f"t{i}": torch.zeros(size) for i, size in enumerate((8, 4, 4, 1, 1, 6))}
    written = []
    for process in range(2):
        monkeypatch.setattr(checkpoint_manager, "rank", lambda process=process: process)
        monkeypatch.setattr(checkpoint_manager, "world_size", lambda: 2)
        written.append(set(checkpoint_manager._parts(held)))
    assert written[0] | written[1] == held.keys()
    assert not written[0] & written[1]
    sizes = [sum(held[name].numel() for name in names) for names in written]
    assert max(sizes) - min(sizes) <= 8


@pytest.mark.gpu
def test_a_save_from_a_gpu_holds_the_values_of_its_moment(checkpoints):
    changing = {"model/a": torch.ones(1 << 24, device="cuda")}
    checkpoints.save(1, changing, {})
    changing["model/a"].fill_(9.0)
    checkpoints.finish()
    into = {"model/a": torch.zeros(1 << 24)}
    load(checkpoints.newest(), into)
    assert torch.equal(into["model/a"], torch.ones(1 << 24))


@pytest.mark.parametrize("step", [3, -1, 2.0, "2", True])
def test_a_checkpoint_whose_step_is_not_its_folders_is_passed_over(checkpoints, tmp_path, step):
    saved(checkpoints, 1, 2)
    path = tmp_path / "step-00000002/state.json"
    rewrite(path, step=step)
    assert checkpoints.newest().step == 1
    assert checkpoints.said == [
        f"passed over: {path}: says step {step!r}; the folder was renamed, or the file was edited; "
        "1 step after step 1 is computed again"
    ]


def test_a_file_in_place_of_the_folder_of_checkpoints_is_told_before_training(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="checkpoints: a file, where"):
        CheckpointManager(tmp_path / "checkpoints", keep=2, report=print).newest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"identity": [1]}, "no 'identity'"),
        ({"config": None}, "no 'config'"),
        ({"ema": "no"}, "no 'ema'"),
        ({"progress": {"step": 3}}, "progress: step is 3"),
        ({"progress": {"skipped": "x"}}, "progress: skipped is 'x'"),
        ({"progress": {"averaged": -1}}, "progress: averaged is -1"),
        ({"versions": {"plugin x": 3}}, "versions: plugin x is 3"),
    ],
)
def test_a_state_that_no_trainer_writes_is_refused_by_name(checkpoints, tmp_path, change, said):
    state = {"identity": {}, "versions": {}, "config": {}, "progress": {"skipped": 1}, "ema": False}
    checkpoints.save(1, tensors(1.0), state | change)
    checkpoints.finish()
    with pytest.raises(CheckpointError, match=rf"step-00000001/state\.json: state: {said}.*move this checkpoint away"):
        state_of(open_checkpoint(tmp_path / "step-00000001"))

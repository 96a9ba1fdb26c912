"""What a user may rely on when a run is stopped, killed, resumed or goes wrong; everything on one process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fourm_engine.recipes.runs import open_run
from fourm_engine.train import checkpoint_manager, loop
from fourm_engine.train.checkpoint import CheckpointError
from fourm_engine.train.loop import Stopped, Trainer
from fourm_engine.train.outcome import Diverged
from fourm_engine.train.watchdog import Watchdog
from tests.running import equal, losses
from tests.train import toy_task
from tests.train.toy_task import ToyTask, config, train

PROGRAM = Path(toy_task.__file__)


def start(run: Path, changes: dict, options: dict) -> subprocess.Popen:
    root = Path(loop.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "TOY_DROPOUT": "1"}
    command = [sys.executable, str(PROGRAM), str(run), json.dumps(changes), json.dumps(options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(autouse=True)
def dropout(monkeypatch):
    monkeypatch.setattr(toy_task, "DROPOUT", True)


def test_it_learns_and_the_same_seed_gives_the_same_weights(tmp_path):
    first = train(tmp_path / "a", steps=60)
    assert losses(tmp_path / "a")[-1] < losses(tmp_path / "a")[0] / 2
    assert equal(first, train(tmp_path / "b", steps=60))
    assert not equal(first, train(tmp_path / "c", steps=60, seed=2))


@pytest.mark.parametrize("ema", [None, 0.8])
def test_a_run_stopped_by_sigterm_saves_and_continues_bit_for_bit(tmp_path, ema, capsys):
    before = signal.getsignal(signal.SIGTERM)
    whole = train(tmp_path / "whole", ema=ema)
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "cut", ToyTask(end_at=12), ema=ema)
    assert stopped.value.code == 143
    assert (
        "stopped by SIGTERM after step 13, checkpoint at step 13; run the same command again" in capsys.readouterr().err
    )
    assert [p.name for p in (tmp_path / "cut/checkpoints").iterdir()] == ["step-00000013"]
    assert equal(whole, train(tmp_path / "cut", ema=ema))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_whose_output_nobody_reads_stops_and_is_listed_as_stopped(tmp_path, monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        with pytest.raises(Stopped) as stopped:
            train(tmp_path / "run")
    assert stopped.value.code == 128 + signal.SIGPIPE
    assert "stopped by SIGPIPE, as nobody reads its output, after step 0, no checkpoint yet" in capsys.readouterr().err
    assert open_run(tmp_path / "run").state == "stopped"
    monkeypatch.undo()
    train(tmp_path / "run")
    assert open_run(tmp_path / "run").state == "ended"


def test_a_run_killed_between_checkpoints_continues_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", checkpoint_every=5)
    process = start(tmp_path / "cut", {"checkpoint_every": 5}, {"kill_at": 13})
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert len(losses(tmp_path / "cut")) == 13
    part = tmp_path / "cut/checkpoints/step-00000012.part"  # as left by a save that was killed
    part.mkdir()
    (part / "part-00000-of-00001.safetensors").write_bytes(b"half")
    assert equal(whole, train(tmp_path / "cut", checkpoint_every=5))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")  # no step twice
    assert not part.exists()


def test_the_program_exits_with_143_on_sigterm_and_130_on_ctrl_c(tmp_path):
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        run = tmp_path / str(code)
        process = start(run, {"steps": 5000}, {"slow": 0.02})
        deadline = time.monotonic() + 200
        while not (run / "metrics.jsonl").exists() or not losses(run):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == code
        assert "run the same command again to continue" in errors
        assert len(list((run / "checkpoints").glob("step-????????"))) == 1


def test_only_the_first_step_of_a_start_is_said_to_compile(tmp_path, monkeypatch):
    activities, report = [], Watchdog.report_progress

    def note(self, activity="", **bounds):
        activities.append(activity)
        report(self, activity, **bounds)

    monkeypatch.setattr(Watchdog, "report_progress", note)
    train(tmp_path, steps=3, warmup=1, compile=True)
    assert [name for name in activities if name in ("compiling", "computing")] == ["compiling", *["computing"] * 2]


def test_micro_batches_give_what_one_batch_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_task, "DROPOUT", False)
    train(tmp_path / "one")
    train(tmp_path / "four", accumulate=4)
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size=16 does not divide .*multiple of 3"):
        train(tmp_path, accumulate=3)


def test_weights_that_are_not_finite_at_the_end_are_not_exported(tmp_path):
    class Overflows(ToyTask):
        def after_step(self, model, step):
            model.near.weight.mul_(1e38)

    with pytest.raises(ValueError, match=r"after step 2 .* of the weights .* are not finite: nothing is exported"):
        train(tmp_path, Overflows(), steps=2, warmup=1)
    assert not (tmp_path / "finished.json").exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, capsys):
    weights = train(tmp_path, ToyTask(poison=[3, 7, 8]))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert weights["seen"] == 17  # after_step is for steps that were taken
    assert "step 4: not finite (far nan, near" in capsys.readouterr().err
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-2])["skipped"] == 3


def test_many_in_a_row_end_the_run_naming_step_and_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_SKIPPED", 4)
    with pytest.raises(
        Diverged, match=r"step 10: not finite \(far nan, near [0-9.]+; gradient norm nan\), 4 steps in a row"
    ):
        train(tmp_path, ToyTask(poison=range(6, 20)), checkpoint_every=3)
    # After the first skipped step, with the weights before it.
    assert (tmp_path / "checkpoints/step-00000007/state.json").exists()


def test_the_newest_checkpoints_are_kept(tmp_path):
    train(tmp_path, checkpoint_every=3, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000018", "step-00000020"]


def test_a_full_disk_leaves_the_earlier_checkpoint_and_names_the_path(tmp_path, monkeypatch, caplog):
    save = checkpoint_manager.save_file

    def full(tensors, path, metadata):
        if "step-00000005" not in str(path):
            path.write_bytes(b"some")
            raise OSError(28, "No space left on device", str(path))
        save(tensors, path, metadata)

    monkeypatch.setattr(checkpoint_manager, "save_file", full)
    with pytest.raises(CheckpointError, match="could not be saved"):
        train(tmp_path, checkpoint_every=5)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]
    said = caplog.text
    assert (
        f"{tmp_path}/checkpoints/step-00000010.part/part-00000-of-00001.safetensors: cannot be written: No space left"
        in said
    )
    monkeypatch.setattr(checkpoint_manager, "save_file", save)
    assert equal(train(tmp_path, checkpoint_every=5), train(tmp_path.with_suffix(".whole"), checkpoint_every=5))


def test_damaged_checkpoints_are_passed_over_with_what_is_computed_again(tmp_path, caplog):
    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", ToyTask(end_at=12), checkpoint_every=5, keep=3)
    newest, earlier = (tmp_path / f"cut/checkpoints/step-000000{step}" for step in (13, 10))
    parts = [folder / "part-00000-of-00001.safetensors" for folder in (newest, earlier)]
    parts[0].write_bytes(parts[0].read_bytes()[:-8])
    parts[1].unlink()
    assert equal(whole, train(tmp_path / "cut"))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"passed over: {parts[0]}: not the file that was saved, damaged or truncated; 8 steps after step 5 are "
        "computed again",
        f"passed over: {parts[1]}: No such file or directory; 5 steps after step 5 are computed again",
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"task": ToyTask(width=6)}, "model.width was 5, is 6"),
        ({"seed": 9}, "seed was 1"),
        ({"batch_size": 32}, "batch_size"),
    ],
)
def test_resuming_another_model_seed_or_batch_is_refused_by_name(tmp_path, changes, key):
    with pytest.raises(Stopped):
        train(tmp_path, ToyTask(end_at=3))
    with pytest.raises(ValueError, match=re.escape(key)):
        train(tmp_path, **changes)


def test_only_a_run_that_may_go_on_is_accepted(tmp_path):
    accepted = []

    def run(task, **changes):
        return Trainer(task, config(**changes), tmp_path, seed=1, accepted=lambda: accepted.append(changes)).run()

    with pytest.raises(Stopped):
        run(ToyTask(end_at=3))
    with pytest.raises(ValueError, match="batch_size"):
        run(ToyTask(), batch_size=32)
    run(ToyTask(), keep=5)
    run(ToyTask(), keep=6)  # finished already
    assert accepted == [{}, {"keep": 5}, {"keep": 6}]


def test_resuming_without_a_plugin_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyTask, "versions", lambda self: {"plugin sonar": "fourm-sonar 1.2"})
    with pytest.raises(Stopped):
        train(tmp_path, ToyTask(end_at=3))
    monkeypatch.setattr(ToyTask, "versions", lambda self: {})
    with pytest.raises(ValueError, match=r"plugin sonar took part and does not now \(pip install fourm-sonar==1\.2\)"):
        train(tmp_path, ToyTask(width=6))


def test_a_finished_run_is_not_repeated_but_can_be_prolonged(tmp_path, capsys):
    first = train(tmp_path)
    train(tmp_path, ToyTask(poison=range(100)))  # would diverge if it ran
    assert "nothing to do" in capsys.readouterr().err
    longer = train(tmp_path, steps=40)
    assert "train.steps was 20 before and is now 40" in capsys.readouterr().err
    assert len(losses(tmp_path)) == 40
    assert not equal(first, longer)


def test_the_exported_weights_are_the_average_where_one_is_kept(tmp_path):
    plain = train(tmp_path / "plain")
    averaged = train(tmp_path / "averaged", ema=0.95)
    assert losses(tmp_path / "plain") == losses(tmp_path / "averaged")
    assert not torch.equal(plain["near.weight"], averaged["near.weight"])


def test_a_run_counted_in_samples_is_the_run_counted_in_steps(tmp_path):
    """A pure function of the config: processes and resuming change nothing."""
    for name, length in (("steps", {"steps": 12}), ("samples", {"steps": None, "samples": 12 * 16 - 3})):
        Trainer(ToyTask(), config(**length), tmp_path / name, seed=1).run()
    assert losses(tmp_path / "steps") == losses(tmp_path / "samples")
    assert len(losses(tmp_path / "steps")) == 12


def test_a_length_in_tokens_needs_a_task_that_counts_them(tmp_path):
    with pytest.raises(ValueError, match="no fixed number of tokens per sample"):
        Trainer(ToyTask(), config(steps=None, tokens=1000), tmp_path / "run", seed=1).run()
    task = ToyTask()
    task.sample_tokens = 6
    Trainer(task, config(steps=None, tokens=1000), tmp_path / "run", seed=1).run()
    assert len(losses(tmp_path / "run")) == 11


@pytest.mark.parametrize("content", [b"", b"[]", b'{"step": 8}', b"\xff", b"[" * 100_000, b'{"step": 8, "scores": 3}'])
def test_a_damaged_note_of_a_finished_run_has_its_end_done_again(tmp_path, content):
    train(tmp_path, steps=8)
    first = (tmp_path / "finished.json").read_text()
    (tmp_path / "finished.json").write_bytes(content)
    train(tmp_path, steps=8)
    assert json.loads((tmp_path / "finished.json").read_text()) == json.loads(first)


def test_best_weights_are_kept_only_where_something_says_which_are_better(tmp_path):
    with pytest.raises(ValueError, match=r"train\.keep_best: toy has no measure"):
        Trainer(ToyTask(), config(keep_best=True), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()

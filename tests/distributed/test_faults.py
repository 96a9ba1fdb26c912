"""What a run of two processes does when one of them, or all, are killed, stopped or stand still."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.train.watchdog import AGAIN, FOLDER
from tests.distributed.launching import SECONDS, Forked, start
from tests.running import losses

STEPS = 40


def begin(run: Path, options: dict | None = None, world: int = 2, **changes) -> list[Forked]:
    settings = {"steps": STEPS, "checkpoint_every": 3, "ema": 0.9, **changes}
    return start("train/toy_task.py", str(run), json.dumps(settings), json.dumps(options or {}), world=world)


def ended(processes: list[Forked]) -> list[tuple[int, str]]:
    """(exit code, standard error) of each."""
    return [process.wait() for process in processes]


def learning(run: Path, processes: list[Forked]) -> None:
    """Wait until something has been learned in this start."""
    path = run / "metrics.jsonl"
    before = path.stat().st_mtime_ns if path.exists() else 0
    last = time.monotonic() + SECONDS
    while not path.exists() or path.stat().st_mtime_ns == before or not path.read_text().strip():
        assert time.monotonic() < last
        if any(process.poll() is not None for process in processes):
            return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    assert [code for code, _ in ended(begin(run))] == [0, 0]
    return run


def same(run: Path, other: Path) -> bool:
    first, second = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    return losses(run) == losses(other) and all(torch.equal(first[name], second[name]) for name in first)


def disturb(processes: list[Forked], how: str, rng: random.Random, *, begun: bool) -> None:
    """Do it, and check that all others end in bounded time, saying what they should. `begun`: whether the processes
    have met, before which they do not know who the others are."""
    victim = rng.randrange(2)
    other = 1 - victim
    if any(process.poll() is not None for process in processes):  # it was done already
        return
    if how == "kill all":
        for process in processes:
            process.send_signal(signal.SIGKILL)
        ended(processes)
    elif how == "kill":
        processes[victim].send_signal(signal.SIGKILL)
        (code, said), _ = ended([processes[other], processes[victim]])
        if code == AGAIN:  # else: it was at work outside the loop, before or after
            assert f"rank {victim} (process {processes[victim].pid}" in said or not begun, said
            assert f"rank {victim} " in said, said
            assert "Traceback" not in said, said
    elif how == "term":
        processes[victim].send_signal(signal.SIGTERM)
        codes = [code for code, _ in ended(processes)]
        assert set(codes) <= {128 + signal.SIGTERM, -signal.SIGTERM, AGAIN, 1, 0}
    else:
        processes[victim].send_signal(signal.SIGSTOP)
        try:
            code, said = ended([processes[other]])[0]
            if code == AGAIN:
                assert re.search(rf"rank {victim} (is behind.* without a|.*is lost: no) sign of life", said), said
        finally:
            processes[victim].send_signal(signal.SIGKILL)
            ended([processes[victim]])


def survive(run: Path, number: int, seed: int) -> set[str]:
    """Disturb a run `number` times at random moments, then let it end."""
    rng, done = random.Random(seed), []
    for i in range(number):
        # Slow enough that it does not end meanwhile.
        processes = begin(run, {"slow": 0.05, "silent": 5}, watchdog_s=3.0)
        if begun := rng.random() < 0.9:
            learning(run, processes)
        time.sleep(rng.uniform(0, 0.3))
        done.append(("kill", "term", "stop", "kill all")[i % 4])
        disturb(processes, done[-1], rng, begun=begun)
    assert [code for code, _ in ended(begin(run))] == [0, 0]
    return set(done)


def test_a_run_that_is_killed_stopped_and_terminated_ends_as_one_that_is_not(tmp_path, undisturbed):
    assert survive(tmp_path, 3, seed=1) == {"kill", "term", "stop"}
    assert same(tmp_path, undisturbed)
    assert not (tmp_path / FOLDER).exists() or {p.suffix for p in (tmp_path / FOLDER).iterdir()} == {".stack"}
    assert not list((tmp_path / "checkpoints").glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_thirty_disturbances_at_random_moments_change_no_loss_and_no_weight(tmp_path, undisturbed, seed):
    survive(tmp_path, 10, seed=seed)
    assert same(tmp_path, undisturbed)


def test_the_others_name_a_process_that_was_killed_and_end_at_once(tmp_path):
    processes = begin(tmp_path, {"slow": 0.01}, world=3, batch_size=18, steps=100_000)
    learning(tmp_path, processes)
    processes[1].send_signal(signal.SIGKILL)
    (first, said), _, (third, silent) = ended(processes)
    assert (first, third) == (AGAIN, AGAIN)
    line = [line for line in said.splitlines() if "lost" in line]
    assert len(line) == 1
    assert line[0].startswith(f"rank 1 (process {processes[1].pid} on ")
    assert line[0].endswith("run the same command again to continue")
    assert "lost" not in silent
    assert "Traceback" not in said + silent


def test_a_hang_ends_naming_who_is_behind_with_the_stack_of_each_process(tmp_path):
    options = {"stop_at": 7, "only_on_rank": "1"}
    (first, said), (second, other) = ended(begin(tmp_path, options, watchdog_s=3.0))
    assert (first, second) == (AGAIN, AGAIN)
    line = next(line for line in said.splitlines() if "no progress" in line)
    assert "rank 1 is behind, at step 8, computing (process" in line
    assert f"stacks in {tmp_path}/{FOLDER}" in line
    assert "no progress" not in other
    assert "stand_still" in (tmp_path / FOLDER / "rank-00001.stack").read_text()
    assert (
        "sum_numbers" in (tmp_path / FOLDER / "rank-00000.stack").read_text()
        or "reduce" in (tmp_path / FOLDER / "rank-00000.stack").read_text()
    )
    steps = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert steps == ["step-00000003", "step-00000006"]


FROZEN = [
    *(("starting", 1), ("meeting", 0), ("meeting", 1), ("checking", 0), ("building", 1), ("loading", 1)),
    *(("saving", 0), ("saving the last", 1), ("evaluating", 1), ("exporting", 0), ("leaving", 1)),
]


@pytest.mark.parametrize(("phase", "rank"), FROZEN)
def test_a_process_that_freezes_is_not_waited_for_whatever_it_was_doing(tmp_path, phase, rank):
    if phase == "loading":
        assert [code for code, _ in ended(begin(tmp_path, steps=5))] == [0, 0]
    options = {"freeze": (phase, str(rank)), "silent": 2, "grace": 2}
    processes = begin(tmp_path, options, steps=6, watchdog_s=2.0)
    frozen, other = processes[rank], processes[1 - rank]
    try:
        ((code, said),) = ended([other])
    finally:
        frozen.send_signal(signal.SIGKILL)
        ended([frozen])
    if phase == "leaving":  # nobody waits for it
        assert code == 0, said
    else:
        assert code == AGAIN, said
        assert re.search(rf"rank {rank} (\(process {frozen.pid} on |is lost|is behind).* sign of life", said), said
        assert "Traceback" not in said
    assert [code for code, _ in ended(begin(tmp_path, steps=6))] == [0, 0]
    assert (tmp_path / "finished.json").exists()


def test_one_process_that_stands_still_ends_too(tmp_path):
    ((code, said),) = ended(begin(tmp_path, {"stop_at": 2}, world=1, watchdog_s=2.0))
    assert code == AGAIN
    assert "no progress for 2 s: step 3, computing (process" in said
    assert "stand_still" in (tmp_path / FOLDER / "rank-00000.stack").read_text()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_to_one_process_saves_and_ends_all_of_them(tmp_path, number):
    processes = begin(tmp_path, {"slow": 0.02}, steps=5000, checkpoint_every=5000)
    learning(tmp_path, processes)
    os.kill(processes[1].pid, number)
    (first, said), (second, _) = ended(processes)
    assert (first, second) == (128 + number, 128 + number)
    assert f"stopped by {number.name} after step" in said
    assert len(list((tmp_path / "checkpoints").glob("step-????????"))) == 1
    assert not (tmp_path / FOLDER).exists()


def test_a_process_that_fails_by_itself_is_named_with_its_error(tmp_path):
    (first, said), (second, _) = ended(begin(tmp_path, {"raise_on_rank": "1"}))
    assert (first, second) == (AGAIN, 1)
    assert "rank 1 ended: RuntimeError: no memory" in said
    assert "Traceback" not in said


def test_two_processes_keep_the_best_weights_once_whether_or_not_they_are_killed_while_they_are_written(
    tmp_path,
):
    settings = {"steps": 20, "checkpoint_every": 8, "eval_every": 3, "keep_best": True}
    assert [code for code, _ in ended(begin(tmp_path / "whole", {"keeps": True}, **settings))] == [0, 0]
    note = json.loads((tmp_path / "whole/best/best.json").read_text())
    # The weights are there, the note is that of the step before.
    (code, _), (other, said) = ended(begin(tmp_path / "cut", {"keeps": True, "kill_keeping": 9}, **settings))
    assert (code, other) == (-signal.SIGKILL, AGAIN), said
    assert json.loads((tmp_path / "cut/best/best.json").read_text())["step"] < note["step"]
    assert [code for code, _ in ended(begin(tmp_path / "cut", {"keeps": True}, **settings))] == [0, 0]
    assert json.loads((tmp_path / "cut/best/best.json").read_text()) == note
    assert same(tmp_path / "cut", tmp_path / "whole")
    kept, again = (load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(kept[name], again[name]) for name in kept)

"""Two commands in one folder: the second is told who is at work, and changes nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fourm_engine import lock
from fourm_engine.files import CannotWrite
from fourm_engine.lock import Busy, at_work

HOLD = """
import sys, os, time, signal
from pathlib import Path
from fourm_engine.lock import at_work
with at_work(Path(sys.argv[1]), replaced=sys.argv[2] == "beside"):
    if sys.argv[3:] == ["fork"]:
        if os.fork() == 0:  # a data-loader worker
            print("child", os.getpid(), flush=True)
            time.sleep(600)
    else:
        print("in", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path, *options: str, **environment: str):
    """Another process at work in the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *(options or ("inside",))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        process.said = process.stdout.readline()  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_the_second_is_told_who_is_at_work_and_leaves_the_folder_as_it_is(tmp_path, where):
    folder = tmp_path / "runs" / "mine"
    with holder(folder, where) as first:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(Busy) as caught, at_work(folder, replaced=where == "beside"):
            pass
        assert sorted(tmp_path.rglob("*")) == before
    words = str(caught.value)
    assert words.startswith(f"{folder}: ")
    for fact in (f"process {first.pid}", os.uname().nodename, "user ", "since 2", "choose another folder"):
        assert fact in words
    assert "\n" not in words


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_blocks_nobody(tmp_path, number):
    with holder(tmp_path / "run") as first:
        first.send_signal(number)
        first.wait()
        with at_work(tmp_path / "run"):
            pass
    assert not (tmp_path / "run").exists()  # the killed one made it, and nothing is in it


def test_a_worker_that_outlives_its_parent_holds_nothing(tmp_path):
    with holder(tmp_path / "run", "inside", "fork") as first:
        child = int(first.said.split()[1])
        first.kill()
        first.wait()
        os.kill(child, 0)
        try:
            with at_work(tmp_path / "run"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_the_processes_of_one_torchrun_hold_a_folder_together(tmp_path, monkeypatch):
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1234"}
    for name, value in {**job, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with holder(tmp_path / "run", RANK="0", **job):
        with at_work(tmp_path / "run"):
            pass
        monkeypatch.setenv("MASTER_PORT", "99")
        with pytest.raises(Busy), at_work(tmp_path / "run"):
            pass
        monkeypatch.undo()
        with pytest.raises(Busy), at_work(tmp_path / "run"):
            pass


def test_blocks_of_one_process_may_be_nested_and_leave_nothing(tmp_path):
    with at_work(tmp_path / "a" / "run"):
        with at_work(tmp_path / "a" / "run"):
            pass
        assert (tmp_path / "a/run").is_dir()
    assert not list(tmp_path.iterdir())


def test_what_the_block_wrote_stays_and_what_a_killed_writer_left_goes(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".metrics.jsonl.4194305-0.part").write_text("half")
    (run / ".model.4194305-1.part").mkdir()
    (run / ".encoder.pt2.4194305-3.part.pt2").write_text("half")
    (run / ".model.4194305-2.old").mkdir()
    with at_work(run):
        (run / "config.yaml").write_text("x")
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "model"]  # the old model is back


def test_without_locks_of_the_system_a_live_process_of_this_host_counts(tmp_path, monkeypatch):
    def unsupported(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    with holder(tmp_path / "run"):
        monkeypatch.setattr(fcntl, "flock", unsupported)
        with pytest.raises(Busy), at_work(tmp_path / "run"):
            pass
    with at_work(tmp_path / "run"):  # it is dead
        pass
    entry = tmp_path / "run" / ".fourm-lock-0"
    entry.parent.mkdir(exist_ok=True)
    entry.write_text(json.dumps({"pid": 1, "host": "elsewhere", "command": "fourm\ntrain"}))
    with pytest.raises(Busy, match=r"fourm\?train .*if it is dead, remove .*fourm-lock-0"), at_work(tmp_path / "run"):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_one_clear_line_unless_all_may_be_done(tmp_path, monkeypatch, number):
    def refuse(path, *args, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CannotWrite, match=f"^{tmp_path}: cannot be written: "), at_work(tmp_path):
        pass
    with at_work(tmp_path, needed=False):
        pass


def test_a_second_command_ends_with_one_line(tmp_path):
    with holder(tmp_path / "fourm-mine", "beside") as first:
        done = subprocess.run(
            [sys.executable, "-m", "fourm_engine.cli", "plugins", "new", "mine", "--into", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"process {first.pid}" in done.stderr
    assert not (tmp_path / "fourm-mine").exists()


def test_a_terminated_command_leaves_no_temporary_file(tmp_path):
    code = (
        "import sys, time\nfrom fourm_engine.cli import main\nfrom fourm_engine.cli.app import app\n"
        "from fourm_engine.files import replacing_file\n"
        "from pathlib import Path\n"
        "@app.command('wait')\ndef wait(path: Path):\n"
        "    with replacing_file(path) as part:\n"
        "        part.write_text('half')\n        print('in', flush=True)\n        time.sleep(600)\n"
        "sys.argv = ['fourm', 'wait', sys.argv[1]]\nmain()\n"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "file")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        process.stdout.readline()
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait() != 0
        assert time.monotonic() - began < 300
        assert not list(tmp_path.iterdir())


def test_a_process_that_stands_still_as_it_enters_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "GATE_SECONDS", 0.2)
    gate = tmp_path / lock.GATE
    with open(gate, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Busy, match=r"fourm-lock: held for 0 s by a process .* end it \(fuser"), at_work(tmp_path):
            pass
    with at_work(tmp_path):
        pass


def entering(rank: int, *, world: int = 2, port: int = 1) -> dict[str, str]:
    """The environment of a process of a machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "localhost", **{name: str(number) for name, number in numbers.items()}}


@pytest.mark.parametrize("first", ["is in", "is refused, too", "is of another command"])
def test_a_process_that_alone_is_refused_says_so_though_it_is_not_the_first_of_its_machine(
    tmp_path, monkeypatch, first
):
    for name, value in entering(1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lock, "HEAD_START", 1.2)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ExitStack() as stack:
        if first == "is in":
            stack.enter_context(holder(tmp_path, **entering(0)))
        if first == "is of another command":
            stack.enter_context(holder(tmp_path, **entering(0, port=2)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # less than what an entry says
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
        with pytest.raises((CannotWrite, Busy)) as caught, at_work(tmp_path):
            pass
    assert isinstance(caught.value, Busy if first == "is of another command" else CannotWrite)
    assert caught.value.reported is (first != "is in")
    assert not (tmp_path / f"{lock.GATE}-1").exists()


def test_processes_that_count_themselves_differently_are_told(tmp_path, monkeypatch):
    for name, value in entering(1, world=3).items():
        monkeypatch.setenv(name, value)
    with (
        holder(tmp_path, **entering(0)),
        pytest.raises(ValueError, match="rank 1 has WORLD_SIZE=3, and rank 0 2; start all processes with one torchrun"),
        at_work(tmp_path),
    ):
        pass

"""Standard streams that are closed or know few characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.distributed.launching import ROOT
from tests.recipes.test_config import MINIMAL

ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def fourm(*words, cwd, close="", **environment):
    line = f'"$0" -m fourm_engine.cli "$@" {close}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("close", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_accident(tmp_path, close):
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/run.json").write_text('{"format": 1, "what": "fourm", "state": "failed", "error": "x"}')
    done = fourm("runs", cwd=tmp_path, close=close)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_libraries_print_does_not_get_into_files_opened_later(tmp_path):
    code = (
        "import os; from fourm_engine.cli.streams import settle_streams; settle_streams();"
        "f = open('new', 'wb'); os.write(1, b'noise'); print('more'); f.close()"
    )
    done = subprocess.run(["bash", "-c", '"$0" -c "$1" >&-', sys.executable, code], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert (tmp_path / "new").read_bytes() == b""


def test_characters_that_a_terminal_lacks_are_escaped(tmp_path):
    done = fourm("--help", cwd=tmp_path, **ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout


def test_a_config_is_utf_8_whatever_the_locale(tmp_path):
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "run": "r\u00fcn"}, allow_unicode=True), encoding="utf-8")
    done = fourm("train", "config.yaml", "--dry-run", cwd=tmp_path, **ASCII)
    assert "not a text file" not in done.stderr


WRITES = """
import os, sys
from fourm_engine.cli import main
from fourm_engine.recipes import runs
def broken(folders):
    read, write = os.pipe()
    os.close(read)
    os.write(write, b"for a process that has ended")
runs.find_runs = broken
sys.argv = ["fourm", "runs"]
main()
"""


def test_another_pipe_that_breaks_is_an_error_and_no_output_that_nobody_reads(tmp_path):
    done = subprocess.run([sys.executable, "-c", WRITES], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    line = "a process or connection that this command writes to has ended (FOURM_TRACEBACK=1 shows which)"
    assert done.stderr == f"fourm: error: {line}\n"


def test_errors_that_nobody_reads_end_a_command_as_well(tmp_path):
    code = WRITES.replace("read, write = os.pipe()", "write = 2; return print('x' * 9, file=sys.stderr, flush=True)")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=write, check=False)
    os.close(write)
    assert (done.returncode, done.stdout) == (141, b"")


@pytest.mark.parametrize("words", [(), ("--help",), ("train", "-h"), ("--version",), ("plugins", "list")])
def test_output_that_nobody_reads_ends_quietly(tmp_path, words):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fourm_engine.cli", *words]
    done = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_does_not_fit_on_the_disk_is_one_line(tmp_path):
    done = fourm("plugins", "list", cwd=tmp_path, close=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "fourm: error: No space left on device; free space\n")


def test_a_current_folder_that_was_removed_is_named(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); from fourm_engine.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fourm: error: the current folder was removed; change to another one (cd)\n"


def test_a_run_folder_that_is_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps(MINIMAL))
    (tmp_path / "loop").symlink_to("loop")
    command = [
        sys.executable,
        "-m",
        "fourm_engine.cli",
        "train",
        str(tmp_path / "config.yaml"),
        f"run={tmp_path / 'loop'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{tmp_path / 'loop'}: " in done.stderr.splitlines()[-1]

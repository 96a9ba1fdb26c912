"""`demo.sh`, with programs in place of Python and fourm that note how they are called."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "scenes" / "demo.sh"
PYTHON = f"""#!/bin/sh
case "$*" in *cuda*) echo 0 ;; *affinity*) echo 2 ;; -c*) exec {sys.executable} "$@" ;; *) echo "$*" >> calls ;; esac
"""
FOURM = '#!/bin/sh\nif [ "$1" = plugins ]; then cat plugins.json; else echo "$*" >> calls; [ "$1" != "$FAILS" ]; fi\n'


@pytest.fixture
def demo(tmp_path):
    """Run it with some plugins installed; its exit code, and the calls."""
    for name, program in {"python": PYTHON, "fourm": FOURM, "torchrun": PYTHON}.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)

    def run(installed, fails=""):
        (tmp_path / "plugins.json").write_text(json.dumps([{"name": name, "state": "ok"} for name in installed]))
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILS": fails}
        ended = subprocess.run([shutil.which("bash"), SCRIPT, "demo", "20", "2", "3"], cwd=tmp_path, env=environment)
        return ended.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


ALL = ["boxes", "caption", "clip", "depth", "normal", "rgb", "semseg"]


def _spaces(calls):
    """The token spaces that are fitted, sorted."""
    words = " ".join(call for call in calls if "tokenizer fit" in call).split()
    return sorted(after for before, after in pairwise(words) if before == "--space")


def test_each_tokenizer_is_fitted_once_and_that_of_features_after_they_are_made(demo):
    code, calls = demo(ALL)
    assert code == 0
    assert _spaces(calls) == ["clip", "depth", "normal", "rgb", "semseg", "text"]
    label, fit = (next(i for i, call in enumerate(calls) if part in call) for part in ("label", "--space clip"))
    assert label < fit
    assert any("run=runs/demo" in call.split() for call in calls)


def test_what_is_not_installed_is_left_out_and_makes_another_run(demo):
    code, calls = demo(["caption", "depth", "rgb"])
    assert code == 0
    assert not any("label" in call for call in calls)
    assert _spaces(calls) == ["depth", "rgb", "text"]
    assert any(
        call.endswith("run=runs/demo-without-normal-without-semseg-without-boxes-without-clip") for call in calls
    )


@pytest.mark.parametrize("fails", ["label", "tokenizer"])
def test_a_step_that_fails_ends_it_in_the_foreground_and_beside(demo, fails):
    code, calls = demo(ALL, fails)
    assert code != 0
    assert not any("tokenize " in call for call in calls)

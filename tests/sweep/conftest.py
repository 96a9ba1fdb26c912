"""Sweeps whose trials are a small program in place of `fourm`, which writes what a run would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from fourm_engine.sweep import suite, workers
from fourm_engine.sweep import sweep as recipe
from tests.recipes.test_config import MINIMAL

PROGRAM = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
import yaml

words = sys.argv[3:]
home = Path({home!r})
with open(home / "calls", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
if words[0] in ("train", "finetune"):
    config = yaml.safe_load(Path(words[1]).read_text())
    folder, seed, lr = Path(config["run"]), config["seed"], config["train"]["lr"]
    width = config.get("model", {{}}).get("width")

def leave(*rows, **record):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\\n" for row in rows)
    facts = {{"format": 1, "state": "ended", "pid": os.getpid(), **record}}
    (folder / ".run").write_text(json.dumps(facts))
    os.replace(folder / ".run", folder / "run.json")

def trained(loss, steps=10):
    for step, more in ((steps // 2, 1), (steps, 0)):
        losses = {{"a": loss, "b": 3 * loss}}
        leave(
            {{"step": step, "loss": loss, "losses": losses, "samples": 8 * step, "seconds": 1.0 * step}},
            {{"step": step, "eval": {{name: value + more for name, value in losses.items()}} | {{"accuracy": 50.0}}}},
            parameters=1000 * (width or 1),
            step=step,
        )

"""
PYTHON = sys.executable  # which tests replace
BODY = "trained(lr + seed / 100)"


class Sweeps:
    """A folder with `base.yaml`, and trials that run `body`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.base({})

    def base(self, changes: dict) -> None:
        raw = {**MINIMAL, "model": {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2}}
        for key, value in changes.items():
            raw[key] = {**raw[key], **value}
        (self.home / "base.yaml").write_text(yaml.safe_dump(raw))

    def program(self, body: str) -> Path:
        path = self.home / "program"
        path.write_text(PROGRAM.format(python=PYTHON, home=str(self.home)) + body)
        path.chmod(0o755)
        return path

    def file(self, name: str = "sweep.yaml", **sections) -> Path:
        path = self.home / name
        path.write_text(yaml.safe_dump({"base": "base.yaml", "out": "out", **sections}, sort_keys=False))
        return Path(name)

    def calls(self) -> list[str]:
        """The trials that were started, in order."""
        path = self.home / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Path(yaml.safe_load(line)[1]).stem for line in lines]


@pytest.fixture
def sweeps(tmp_path, monkeypatch):
    """`sweeps.file(...)` writes a sweep file in the working directory; `sweeps.program(...)` says what trials do."""
    monkeypatch.chdir(tmp_path)
    made = Sweeps(tmp_path)
    path = made.program(BODY)
    monkeypatch.setattr(workers.sys, "executable", str(path))
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(workers, "POLL_OTHERS_SECONDS", 0.02)
    monkeypatch.setattr(workers, "visible_gpus", list)
    for module in (recipe, suite):  # which has its tests
        monkeypatch.setattr(module, "draw_all", lambda *_: ([], []))
    return made

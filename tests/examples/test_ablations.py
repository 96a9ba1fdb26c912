"""Every file of examples/ablations is one that its command takes, and the page names each with its question."""

from __future__ import annotations

import re
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from fourm_engine.finetune.source import Description
from fourm_engine.modalities import load_manager, load_modalities
from fourm_engine.recipes import task_config
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.task_config import parse_task_config, read_task
from fourm_engine.sweep.suite import Suite
from fourm_engine.sweep.sweep import Sweep

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples/ablations").rglob("*.yaml"))
HEADS = [path for path in FILES if "task" in yaml.safe_load(path.read_text())]
CONFIGS = [path for path in FILES if "run" in yaml.safe_load(path.read_text()) and path not in HEADS]
STARTED = [path for path in CONFIGS if "finetune" in yaml.safe_load(path.read_text())]  # from another model
SUITES = [path for path in FILES if "encoders" in yaml.safe_load(path.read_text())]
SWEEPS = [path for path in FILES if path not in [*CONFIGS, *HEADS, *SUITES]]
PAGE = (ROOT / "docs/ablations.md").read_text()


@cache
def demo() -> Description:
    """What the model of `make demo` says of itself."""
    config = load_config("examples/scenes/demo.yaml", needed=())
    modalities = load_modalities(config.modalities, load_manager(config.modalities))
    settings = {name: {"plugin": name, **m.settings.model_dump(mode="json")} for name, m in modalities.items()}
    return Description(Path("runs/demo"), config.model, modalities.vocabulary(), settings, None)


#: The models that suites take as they are, which their first lines say how to make.
DESCRIBED = {"runs/demo": demo, "runs/longer": demo}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_its_first_lines_say_the_command(path):
    head = "\n".join(takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    kinds = {"train": CONFIGS, "finetune": HEADS, "suite": SUITES, "sweep": SWEEPS}
    command = next(kind for kind, paths in kinds.items() if path in paths)
    assert f"fourm {command} {name(path)}" in head
    assert name(path).rpartition("/")[2] in PAGE


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in STARTED], ids=name)
def test_a_config_parses_and_its_model_is_that_of_the_others(path):
    config = load_config(path, needed=())
    base = load_config("examples/ablations/base.yaml", needed=())
    assert config.model == base.model
    assert config.modalities == base.modalities  # so that the vocabulary is the same, and only what is learned differs


@pytest.mark.parametrize("path", HEADS, ids=name)
def test_a_task_with_a_head_parses_and_learns_from_as_little(path):
    config = parse_task_config(read_task(path), name(path))
    assert config.task.head in ("convnext", "attentive", "linear")
    assert config.data.train_share == (1.0 if path.name == "digits-head.yaml" else 0.1)  # a folder of a hundred digits


@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_every_trial_of_a_sweep_has_a_config_that_parses(path):
    trials = Sweep(path.relative_to(ROOT)).trials
    assert len(trials) >= 6
    assert all(trial.content for trial in trials)


@pytest.mark.parametrize("path", SUITES, ids=name)
def test_every_trial_of_a_suite_has_a_config_that_parses(path, monkeypatch):
    monkeypatch.setattr(task_config, "describe_source", lambda source, manager: DESCRIBED[source]())
    suite = Suite(path.relative_to(ROOT))
    assert len(suite.tasks) >= 2
    assert not suite.notes  # every encoder meets every task
    assert all(trial.content for trial in suite.trials)


def test_the_page_has_a_row_for_each_question_of_the_papers():
    rows = re.findall(r"^\| (.+?) \| \[?`(\S+\.yaml)`", PAGE, re.MULTILINE)
    assert {file for _, file in rows} == {path.name for path in [*SWEEPS, *SUITES]} - {"pretraining-tiny.yaml"}

"""What a run takes from packages: observers, which change nothing, optimisers and schedules by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from fourm_engine.train import stopping
from fourm_engine.train.loop import Stopped
from fourm_plugins.manager import PluginError, PluginManager
from tests.installing import install as install_packages
from tests.running import equal, losses
from tests.sdk.sites import entry
from tests.train.toy_task import ToyTask, config, train

EXAMPLES = Path(__file__).parents[2] / "examples/plugins"
NOTES = """
import json
from fourm_plugins import hookimpl

class Notes:
    def note(self, run, **facts):
        with open(run.folder / "notes", "a") as file:
            file.write(json.dumps(facts, default=str) + chr(10))
    @hookimpl
    def fourm_run_started(self, run):
        facts = (run.task, run.first_step, run.steps, run.processes, run.config["lr"])
        self.note(run, hook="started", facts=facts, known=run.parameters > 0)
    @hookimpl
    def fourm_step(self, run, step, metrics): self.note(run, hook="step", step=step, metrics=metrics)
    @hookimpl
    def fourm_evaluated(self, run, step, scores): self.note(run, hook="evaluated", step=step, scores=scores)
    @hookimpl
    def fourm_checkpoint(self, run, step, folder):
        self.note(run, hook="checkpoint", step=step, whole=(folder / "state.json").is_file())
    @hookimpl
    def fourm_run_ended(self, run, step, outcome, error): self.note(run, hook="ended", facts=(step, outcome, error))
"""
HOSTILE = """
import os, random, signal, sys
import numpy as np, torch
from fourm_plugins import hookimpl

class Hostile:
    @hookimpl
    def fourm_run_started(self, run):
        run.config["lr"] = 7.0
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    @hookimpl
    def fourm_step(self, run, step, metrics):
        torch.rand(step), np.random.rand(step), random.random()
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True, warn_only=True)
        os.chdir("/")
        metrics["losses"].clear(), metrics.update(loss=0.0)
    @hookimpl
    def fourm_evaluated(self, run, scores):
        scores.clear()
        raise RuntimeError("the service is down")
"""
EXITING = """
import os
from fourm_plugins import hookimpl

class Exiting:
    @hookimpl
    def fourm_step(self): os._exit(3)
    @hookimpl
    def fourm_run_ended(self): raise RuntimeError("never called")
"""
PRESSED = """
import signal
from fourm_plugins import hookimpl

class Slow:
    @hookimpl
    def fourm_step(self):
        for _ in range(TIMES): signal.raise_signal(signal.SIGINT)
"""


@pytest.fixture
def host(install):
    """host(name=source, …): a plugin host that activated these observers."""

    def make(**sources: str) -> PluginManager:
        for name, source in sources.items():
            install(f"acme-{name}", entry(name, f"acme_{name}:{name.title()}", "fourm.observers.v1"), source=source)
        manager = PluginManager()
        manager.activate_observers(list(sources))
        return manager

    return make


@pytest.fixture
def lion(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(install_packages(site, EXAMPLES / "lion")))
    yield PluginManager()
    sys.modules.pop("acme_lion", None)


def notes(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "notes").read_text().splitlines()]


def test_an_observer_is_told_of_start_steps_scores_checkpoints_and_end(tmp_path, host):
    manager = host(notes=NOTES)
    train(tmp_path / "run", host=manager, steps=6, warmup=1, log_every=2, checkpoint_every=4, eval_every=3)
    told = notes(tmp_path / "run")
    assert [(note["hook"], note.get("step")) for note in told if note["hook"] != "checkpoint"] == [
        ("started", None),
        ("step", 2),
        ("evaluated", 3),
        ("step", 4),
        ("step", 6),
        ("evaluated", 6),
        ("ended", None),
    ]
    # They are written beside the steps, and told of when they are whole.
    assert [note["step"] for note in told if note["hook"] == "checkpoint"] == [4, 6]
    assert told[0]["facts"] == ["toy", 0, 6, 1, 0.05]
    assert all(note["whole"] for note in told if note["hook"] == "checkpoint")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [note["metrics"] for note in told if note["hook"] == "step"] == [row for row in rows if "loss" in row]
    assert [note["scores"] for note in told if note["hook"] == "evaluated"] == [r["eval"] for r in rows if "eval" in r]
    assert told[-1]["facts"] == [6, "finished", ""]
    train(tmp_path / "run", host=manager, steps=6, warmup=1)  # nothing to do, nothing to tell
    assert notes(tmp_path / "run") == told


def test_an_observer_is_told_of_a_run_that_is_stopped_goes_on_or_fails(tmp_path, host):
    manager = host(notes=NOTES)
    with pytest.raises(Stopped):
        train(tmp_path, ToyTask(end_at=2), host=manager, steps=5)
    assert [note["hook"] for note in notes(tmp_path)][-2:] == ["checkpoint", "ended"]
    assert notes(tmp_path)[-1]["facts"] == [3, "stopped", ""]
    with pytest.raises(ValueError, match="not finite"):
        train(tmp_path, ToyTask(poison=range(100)), host=manager, steps=20)
    started = [note["facts"] for note in notes(tmp_path) if note["hook"] == "started"]
    assert [facts[1] for facts in started] == [0, 3]
    step, outcome, error = notes(tmp_path)[-1]["facts"]
    assert (step, outcome) == (13, "failed")
    assert "10 steps in a row" in error


@pytest.mark.parametrize(("times", "error"), [(1, Stopped), (2, KeyboardInterrupt)])
def test_ctrl_c_that_meets_an_observer_is_no_fault_of_it(tmp_path, host, capsys, monkeypatch, times, error):
    monkeypatch.setattr(stopping, "ECHO", 0.0)  # the second one at once, in place of a second later
    with pytest.raises(error):
        train(tmp_path / "run", host=host(slow=PRESSED.replace("TIMES", str(times))), steps=6, warmup=1, log_every=2)
    assert "observer" not in capsys.readouterr().err


def test_what_an_observer_does_changes_nothing_of_the_run(tmp_path, host, capsys):
    threads = torch.get_num_threads()
    settings = {"steps": 6, "warmup": 1, "eval_every": 2, "checkpoint_every": 3}
    plain = train(tmp_path / "plain", **settings)
    watched = train(tmp_path / "watched", host=host(hostile=HOSTILE, exiting=EXITING), **settings)
    assert equal(plain, watched)
    assert losses(tmp_path / "plain") == losses(tmp_path / "watched")
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32
    said = capsys.readouterr().err
    assert (
        said.count("'hostile' of acme-hostile 1.2: fourm_evaluated failed with RuntimeError: the service is down") == 1
    )
    assert said.count("'exiting' of acme-exiting 1.2: fourm_step failed with EndsProcess") == 1
    assert "never called" not in said


def test_a_run_with_an_optimiser_and_a_schedule_of_a_package_resumes_bit_for_bit(tmp_path, lion):
    settings = {"steps": 12, "lr": 3e-3, "optimiser": "lion", "schedule": "inverse_sqrt", "cooldown": 3}
    settings |= {"optimiser_options": {"betas": [0.9, 0.98]}}
    whole = train(tmp_path / "whole", host=lion, **settings)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", ToyTask(end_at=6), host=lion, **settings)
    saved = load_file(next((tmp_path / "cut/checkpoints").glob("*/part-*")))
    assert {name.split("/")[-1] for name in saved if name.startswith("optimiser/")} == {"momentum"}
    with pytest.raises(ValueError, match=r"train\.optimiser was .lion., is .adamw.*pip install acme-lion==1\.0\.0"):
        train(tmp_path / "cut", host=lion, steps=12, lr=3e-3)
    assert equal(whole, train(tmp_path / "cut", host=lion, **settings))
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert not equal(whole, train(tmp_path / "adamw", steps=12, lr=3e-3))


def test_a_checkpoint_before_the_first_step_that_was_taken_is_resumed(tmp_path):
    whole = train(tmp_path / "whole", ToyTask(poison=[0, 1, 2]), steps=8)
    with pytest.raises(Exception, match="stop"):
        train(tmp_path / "cut", _Stopping(poison=[0, 1, 2]), steps=8, checkpoint_every=2)
    assert equal(whole, train(tmp_path / "cut", ToyTask(poison=[0, 1, 2]), steps=8, checkpoint_every=2))


class _Stopping(ToyTask):
    def loss(self, model, batch, step):
        if step == 2:
            raise RuntimeError("stop")
        return super().loss(model, batch, step)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "lyon"}, "no installed plugin provides the optimiser 'lyon'; did you mean 'lion'"),
        ({"schedule": "cosin"}, "no installed plugin provides the schedule 'cosin'; did you mean 'cosine'"),
        (
            {"optimiser": "lion", "optimiser_options": {"beta": 1}},
            "train.optimiser=lion with {'beta': 1}: there is no option beta; did you mean 'betas'",
        ),
        ({"optimiser_options": {"nesterov": True}}, "adamw with .* there is no option nesterov; there are: amsgrad"),
        ({"optimiser": "lion", "optimiser_options": {"betas": [0.9, 2]}}, "train.optimiser=lion .*must be in"),
    ],
)
def test_a_name_or_option_that_does_not_exist_ends_the_run_before_work(tmp_path, lion, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", host=lion, **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "lion", "betas": (0.8, 0.9)}, "betas is for adamw, optimiser is 'lion'"),
        ({"optimiser": "lion", "eps": 1e-4}, "eps is for adamw"),
        ({"optimiser_options": {"eps": 1e-4}}, "set train.eps"),
    ],
)
def test_settings_of_another_optimiser_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        config(**changes)


ODD = """
import torch

class Odd(torch.optim.SGD):
    def __init__(self, params, *, lr, weight_decay=0.0, where="state"):
        super().__init__(params, lr=lr)
        self.where = where
    def step(self, closure=None):
        super().step(closure)
        if self.where == "break":
            raise KeyError("momentum")
        for group in self.param_groups:
            if self.where == "group":
                group["taken"] = group.get("taken", 0) + 1
            for parameter in group["params"]:
                if self.where == "state":
                    self.state[parameter]["taken"] = 1

def nothing(groups, *, lr): return None
def rising(step, *, steps, lr, min_lr, warmup, cooldown): return float("nan")
"""


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("odd", {"where": "state"}, "optimiser 'odd' of acme-odd 1.2 keeps 'taken', a int, in its state"),
        ("odd", {"where": "group"}, "optimiser 'odd' of acme-odd 1.2 keeps taken in its parameter groups"),
        ("odd", {"where": "break"}, "optimiser 'odd' of acme-odd 1.2 failed with KeyError: 'momentum'"),
        ("nothing", {}, "acme_odd:nothing returned a NoneType, not a torch.optim.Optimizer"),
    ],
)
def test_an_optimiser_that_cannot_be_resumed_or_breaks_is_named_at_once(tmp_path, install, name, options, message):
    group = "fourm.optimisers.v1"
    install("acme-odd", entry("odd", "acme_odd:Odd", group) + "nothing = acme_odd:nothing\n", source=ODD)
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", host=PluginManager(), optimiser=name, optimiser_options=options)
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_a_schedule_that_gives_no_rate_is_named(tmp_path, install):
    install("acme-odd", entry("rising", "acme_odd:rising", "fourm.schedules.v1"), source=ODD)
    with pytest.raises(ValueError, match=r"train\.schedule=rising: a rate of nan at step 4"):
        train(tmp_path / "run", host=PluginManager(), schedule="rising")


def test_an_observer_that_cannot_be_used_is_left_out_unless_it_is_named(install, caplog):
    install("acme-notes", entry("notes", "acme_notes:Nots", "fourm.observers.v1"), source=NOTES)
    manager = PluginManager()
    with caplog.at_level("WARNING"):
        manager.activate_observers()
    assert "observer left out: observer 'notes' cannot be activated: acme-notes 1.2" in caplog.text
    with pytest.raises(PluginError, match=r"acme-notes 1\.2"):
        PluginManager().activate_observers(["notes"])
    with pytest.raises(PluginError, match="is disabled"):
        PluginManager(disabled=["notes"]).activate_observers(["notes"])
    PluginManager(disabled=["notes"]).activate_observers()

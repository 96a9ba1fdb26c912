"""Curves for TensorBoard, which an observer writes."""

from __future__ import annotations

import os

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fourm_engine.train.loop import Trainer
from fourm_plugins import Run
from fourm_plugins.manager import PluginManager
from tests.running import losses, rows
from tests.train.toy_task import ToyTask, config

fourm_tensorboard = pytest.importorskip("fourm_tensorboard")


def curves(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_a_run_has_the_curves_of_its_metrics_and_steps_taken_again_appear_once(tmp_path):
    host = PluginManager()
    host.activate_observers(["tensorboard"])
    Trainer(ToyTask(), config(steps=4, warmup=1), tmp_path, seed=1, host=host).run()
    observer = fourm_tensorboard.TensorBoard()
    again = Run(tmp_path, "toy", first_step=3, steps=4, parameters=1, processes=1, config={})
    observer.fourm_run_started(again)
    observer.fourm_step(again, 4, {"step": 4, "loss": 0.5, "losses": {"far": None}})
    observer.fourm_run_ended(again)
    found = curves(tmp_path)
    values = [*losses(tmp_path)[:3], 0.5]
    assert found["loss"] == [(step, pytest.approx(value)) for step, value in enumerate(values, start=1)]
    lines = rows(tmp_path)
    assert {"losses/far", "losses/near", "lr", "samples_per_s"} <= found.keys()
    assert (
        {"eval/error"} == {tag for tag in found if tag.startswith("eval/")} == {f"eval/{k}" for k in lines[-1]["eval"]}
    )


def test_a_full_disk_is_named_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    from tensorboard.summary.writer.record_writer import RecordWriter

    host = PluginManager()
    host.activate_observers(["tensorboard"])

    def full(self, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(RecordWriter, "write", full)
    Trainer(ToyTask(), config(steps=3, warmup=1), tmp_path, seed=1, host=host).run()
    assert len(losses(tmp_path)) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "tensorboard" in line]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert f"{tmp_path}/tensorboard/events.out.tfevents" in told[0]
    assert torch.get_default_dtype() == torch.float32

"""A run that needs more memory than a machine has ends before it begins; one that may be too large says so."""

import logging

import pytest

from fourm_engine.data.samples import MaskedSamples
from fourm_engine.device import Memory
from fourm_engine.pretrain import memory
from fourm_engine.pretrain.memory import shortage
from fourm_engine.train.loop import Trainer
from tests.fakes import fake_modalities, sample_names, write_data
from tests.pretrain.fourm_run import config, make_task

GIB = 2**30
PARTS = {"parameters": 1.0 * GIB, "activations": 20.0 * GIB}


def machine(most, free=None, swap=0):
    return Memory(int(most * GIB), int(swap * GIB), int((most if free is None else free) * GIB))


@pytest.fixture
def data(tmp_path):
    write_data(tmp_path / "train", fake_modalities(), sample_names(8))
    return tmp_path


def test_what_fits_is_not_spoken_of():
    assert shortage(PARTS, config(), machine(22)) == ""


def test_what_is_not_free_now_is_told_and_what_the_machine_lacks_even_if_the_estimate_is_high_is_refused():
    line = shortage(PARTS, config(batch_size=64), machine(24, free=9.5))
    assert "train.batch_size=64: training takes about 21 GiB of memory, of which activations take 20 GiB" in line
    assert "9.5 GiB are free" in line
    assert "train.accumulate" in line
    assert shortage(PARTS, config(), machine(17))
    assert shortage(PARTS, config(), machine(8, swap=16))
    with pytest.raises(ValueError, match=r"there are 16 GiB; raise train.accumulate .* set train.\w+ to full$"):
        shortage(PARTS, config(), machine(16))
    with pytest.raises(ValueError, match=r"in smaller parts\)$"):
        shortage(PARTS, config(activation_checkpointing="full"), machine(16))


def test_a_model_that_is_too_large_is_named_and_not_the_batch():
    with pytest.raises(ValueError, match=r"^model: .* choose a smaller one"):
        shortage({"parameters": 20.0 * GIB, "activations": 1.0 * GIB}, config(), machine(8))


def test_all_processes_of_the_machine_count(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert shortage(PARTS, config(), machine(80, free=90)) == ""
    with pytest.raises(ValueError, match="about 84 GiB"):
        shortage(PARTS, config(), machine(60))


def test_a_run_is_refused_before_it_reads_a_batch_or_leaves_a_file(data, tmp_path, monkeypatch):
    monkeypatch.setattr(memory.Memory, "detect", classmethod(lambda cls: machine(16)))
    task = make_task(data, val=None)
    task.batches = None
    with pytest.raises(ValueError, match=r"^train.batch_size=10000000: training takes about 403 GiB of memory"):
        Trainer(task, config(batch_size=10_000_000), tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_rows_that_no_sample_fills_are_no_reason_to_refuse_a_run_that_trims_them(data, monkeypatch):
    monkeypatch.setattr(memory.Memory, "detect", classmethod(lambda cls: machine(1)))
    task = make_task(data, val=None)
    wide = task.data.masking.model_copy(update={"encoder_capacity": 1 << 24})
    monkeypatch.setattr(MaskedSamples, "masking", wide)
    task.check(config())
    with pytest.raises(ValueError, match=r"of memory, of which"):
        task.check(config(compile=True))


def test_a_run_that_may_not_fit_goes_on(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(memory.Memory, "detect", classmethod(lambda cls: machine(16, free=0)))
    with caplog.at_level(logging.WARNING):
        Trainer(make_task(data, val=None), config(steps=2), tmp_path / "run").run()
    assert "if the system ends the run, raise train.accumulate" in caplog.text

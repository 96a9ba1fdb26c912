import re
import time
from pathlib import Path

import pytest
import torch

from fourm_engine.train import utilisation
from fourm_engine.train.utilisation import memory, named_peak, peak

STATUS = Path("/proc/self/status")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12, 66.9e12),
        ("NVIDIA H100 PCIe", 756.5e12, 51.2e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A10", 125e12, 31.2e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12),
    ],
)
def test_a_known_gpu_has_the_peak_of_its_data_sheet(name, bf16, fp32):
    for low, value in ((True, bf16), (False, fp32)):
        found = named_peak(name, bf16=low)
        assert not found.measured
        assert found.flops_per_s == pytest.approx(value)


def test_an_unknown_gpu_has_no_peak_by_name():
    assert named_peak("NVIDIA A1000 Laptop GPU", bf16=True) is None


def test_a_cpus_peak_is_the_rate_of_a_product_and_draws_no_random_number():
    state = torch.get_rng_state()
    found = peak(CPU, bf16=False)
    assert torch.equal(state, torch.get_rng_state())
    a = torch.ones(1024, 1024)
    began = time.process_time()
    a @ a
    here = 2 * 1024**3 / (time.process_time() - began) * torch.get_num_threads()
    assert found.measured
    assert here / 20 < found.flops_per_s < 20 * here  # however busy the machine is


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ([0.06] * 5, "35.8 GFLOP/s of CPU, 1 thread (fp32, measured)"),
        ([0.06, 0.5, 0.06, 0.06, 0.3], "35.8 GFLOP/s of CPU, 1 thread (fp32, measured: 4.29 G to 35.8 G)"),
    ],
)
def test_a_measured_peak_is_the_best_of_several_rounds_and_on_a_busy_machine_a_range(monkeypatch, seconds, said):
    """Of a clock that goes on by so much in each round."""
    times = iter([0.0, 9e-9, *(at for second in seconds for at in (0.0, second))])
    monkeypatch.setattr(utilisation, "_now", lambda device: next(times))
    monkeypatch.setattr(utilisation, "threads", lambda: "1 thread")
    assert str(peak(CPU, bf16=False)) == said


def test_little_work_is_repeated_until_it_can_be_timed(monkeypatch):
    now, products = [0.0], []
    monkeypatch.setattr(utilisation, "_now", lambda device: now[0])
    monkeypatch.setattr(torch, "mm", lambda a, b: (products.append(1), now.__setitem__(0, now[0] + 0.02)))
    rates = utilisation.measured_rates(CPU, bf16=False)
    assert rates == [pytest.approx(2 * 1024**3 / 0.02)] * 5
    assert len(products) == 1 + 5 * 3


@pytest.mark.skipif(not STATUS.exists(), reason="the kernel's count is in /proc")
def test_memory_is_the_most_that_the_process_took():
    peak_kib = int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1])
    assert memory(CPU) == pytest.approx(peak_kib / 2**20, rel=0.05)

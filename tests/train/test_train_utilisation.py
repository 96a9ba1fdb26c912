import re
import time
from pathlib import Path

import pytest
import torch

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
    began = time.perf_counter()
    a @ a
    here = 2 * 1024**3 / (time.perf_counter() - began)
    assert found.measured
    assert found.flops_per_s > here / 20  # the machine may be busy


@pytest.mark.skipif(not STATUS.exists(), reason="the kernel's count is in /proc")
def test_memory_is_the_most_that_the_process_took():
    peak_kib = int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1])
    assert memory(CPU) == pytest.approx(peak_kib / 2**20, rel=0.05)

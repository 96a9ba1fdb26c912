"""Peak FLOP/s of a device, the reference for utilisation, and its memory.

In: a device and its precision. Out: FLOP/s of dense matrix products, from a GPU's data sheet, or measured for any other
device.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import torch

from fourm_engine.train.console import si
from fourm_engine.train.distributed import sum_numbers, world_size

#: Part of a GPU's name, dense TFLOP/s according to its data sheet (without sparsity) in bf16, and in fp32 without TF32.
#: The first match counts.
PEAKS: tuple[tuple[str, float, float], ...] = (
    ("H200", 989.4, 66.9),
    ("GH200", 989.4, 66.9),
    ("H100 PCIe", 756.5, 51.2),
    ("H100 NVL", 835.5, 60.0),
    ("H100", 989.4, 66.9),
    ("A100", 312.0, 19.5),
    ("A800", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("A30", 165.0, 10.3),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 31.2),
    ("L40S", 362.1, 91.6),
    ("L40", 181.1, 90.5),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.0, 35.6),
)
SIDE = 1024  # of the square matrices multiplied in the measurement
#: Rounds of products, and their minimum seconds; on a busy machine single products vary widely.
ROUNDS, ROUND_SECONDS = 5, 0.05
#: A measured peak is shown as a range if the lowest rate is below this fraction of the highest.
STEADY = 0.75


@dataclass(frozen=True)
class Peak:
    """`flops_per_s` of one device in `precision`: from its data sheet, or measured as the best of several rounds; the
    worst reached `least`."""

    flops_per_s: float
    device: str
    least: float = 0.0
    precision: str = ""

    @property
    def measured(self) -> bool:
        return self.least > 0

    def __str__(self) -> str:
        how = f"{self.precision}, measured" if self.measured else "its data sheet"
        if self.measured and self.least < STEADY * self.flops_per_s:  # beside other work
            how += f": {si(self.least).strip()} to {si(self.flops_per_s).strip()}"
        return f"{si(self.flops_per_s)}FLOP/s of {self.device} ({how})"


def peak(device: torch.device, *, bf16: bool) -> Peak:
    """The peak of the device as this process uses it; on a CPU, measured with its threads in about a quarter of a
    second."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads()}"
    if (known := named_peak(name, bf16=bf16)) is not None:
        return known
    rates = measured_rates(device, bf16=bf16)
    return Peak(max(rates), name, min(rates), "bf16" if bf16 else "fp32")


def peak_of_all(device: torch.device, *, bf16: bool) -> tuple[float, str]:
    """FLOP/s of the devices of all processes together, and a description of them. Every process must call it."""
    here = peak(device, bf16=bf16)
    (total,) = sum_numbers([here.flops_per_s])
    return total, f"{world_size()} x {here}" if world_size() > 1 else str(here)


def describe_devices(device: torch.device) -> str:
    """The devices of the run: "CPU, 2 threads", "8 x NVIDIA H100 80GB HBM3"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads()}"
    return f"{world_size()} x {name}" if world_size() > 1 else name


def threads() -> str:
    number = torch.get_num_threads()
    return f"{number} thread{'s' * (number > 1)}"


def named_peak(name: str, *, bf16: bool) -> Peak | None:
    """The peak of a GPU by its CUDA name, such as "NVIDIA A100-SXM4-80GB"; None if unknown."""
    words = name.replace("-", " ").replace("_", " ").upper().split()
    for key, low, full in PEAKS:
        if all(part.upper() in words for part in key.split()):
            return Peak((low if bf16 else full) * 1e12, key)
    return None


def measured_rates(device: torch.device, *, bf16: bool) -> list[float]:
    """FLOP/s of products of square matrices, one number per round. Draws no random numbers."""
    side, rates = SIDE if device.type == "cpu" else 8 * SIDE, list[float]()
    with torch.no_grad():
        a = torch.ones(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
        b = a.clone()
        for number in range(ROUNDS + 1):
            began, products, seconds = _now(device), 0, 0.0
            while not products or seconds < ROUND_SECONDS * (number > 0):  # the first product warms up
                torch.mm(a, b)
                products, seconds = products + 1, _now(device) - began
            if number or seconds > 1:
                rates.append(2.0 * side**3 * products / seconds)
            if seconds > 1:
                break
    return rates


def memory(device: torch.device) -> float:
    """Peak memory of this process in GiB: on its GPU if it has one, otherwise on the host."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _now(device: torch.device) -> float:
    """The time in seconds; on a CPU the process's CPU time, so that other processes do not count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()

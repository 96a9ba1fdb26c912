"""Time of a training step: by variant, beside the obvious implementation, and by part.

    OMP_NUM_THREADS=1 python -m benchmarks.train_step --variant fast --variant obvious --variant obvious-kept
    python -m benchmarks.train_step --size B --size L --variant fast --variant compiled --variant obvious --batch 32

Prints a row of a table for each size and variant: milliseconds of a step (median), samples/s, model-FLOPs utilisation
(docs/training.md: the share of a GPU's data sheet, or on a CPU of one large product measured between the steps), how
many times as fast as `obvious` (benchmarks/obvious.py, the same weights and batches), a GPU's memory, and the step by
part. On a CPU, seconds are of CPU time per thread, and `obvious` runs as the plain program that it is, in a process of
its own, which takes a step after each of ours: freed memory goes back to the system, as the C library has it.
`obvious-kept` is the same in this process, which keeps its memory as the trainer does: what is gained by all else. On a
GPU, steps run under bf16 autocast, as in training.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.obvious import Obvious, dense
from benchmarks.obvious import optimiser as obvious_optimiser
from benchmarks.published import Samples
from fourm_engine.batch import Batch
from fourm_engine.device import keep_memory
from fourm_engine.nn.config import Checkpointing, ModelConfig
from fourm_engine.nn.flops import forward_flops, training_flops
from fourm_engine.nn.transformer import Transformer
from fourm_engine.nn.wrappers import checkpoint_blocks, compile_blocks, halve_residual
from fourm_engine.train.utilisation import named_peak

#: "fast" is eager; "selective" and "full" are checkpointing; "half" has a residual stream in bf16; "obvious-kept" is
#: for CPUs.
VARIANTS = (
    "fast",
    "compiled",
    "selective",
    "full",
    "compiled-selective",
    "compiled-half",
    "compiled-selective-half",
    "obvious",
    "obvious-kept",
)
OBVIOUS = ("obvious", "obvious-kept")
CHECKPOINTING: tuple[Checkpointing, ...] = ("selective", "full")
WARM_UP = 3  # steps that do not count: allocations, compilation


class Variant(NamedTuple):
    network: torch.nn.Module
    optimiser: torch.optim.Optimizer
    batches: list[Any]


def now(device: torch.device) -> float:
    """Seconds: by the clock once a GPU has finished, of CPU time per thread of this process."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def mark(device: torch.device) -> Any:
    """A moment, for `seconds_between`: on a GPU one that it will pass, so that the host need not wait for it."""
    if device.type != "cuda":
        return now(device)
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):
        began = now(device)
        a @ b
        times.append(now(device) - began)
    return 2 * n**3 / sorted(times[1:])[2]


def build(name: str, size: str, samples: Samples, batches: list[Batch], device: torch.device) -> Variant:
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Transformer(ModelConfig.model_validate({"size": size}), samples.vocabulary)
    draw(model.to_empty(device=device))
    blocks, parts = [*model.encoder, *model.decoder], name.split("-")
    if "half" in parts:
        halve_residual(blocks)
    checkpoint_blocks(blocks, next((how for how in CHECKPOINTING if how in parts), "none"))
    if "compiled" in parts:
        compile_blocks(blocks)
    if name in OBVIOUS:
        shape = batches[0].encoder.ids.shape[1], batches[0].decoder.ids.shape[1]
        whole = [dense(batch, samples.vocabulary).to(device) for batch in batches]
        return Variant(Obvious(model, samples.vocabulary, *shape), obvious_optimiser(model), whole)
    fused = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    return Variant(model, fused, [batch.to(device) for batch in batches])


@torch.no_grad()
def draw(model: Transformer) -> None:
    """Weights of the right size, drawn on the device: quicker than the model's, and equal for all variants."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    model.init_buffers()


def step(variant: Variant, number: int, device: torch.device, accumulate: int = 1) -> list[Any]:
    """The marks before, between and after forward and backward passes, of `accumulate` batches, and the optimiser."""
    marks = [mark(device)]
    bf16 = device.type == "cuda"
    for batch in range(accumulate):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            losses = variant.network(variant.batches[(number + batch) % len(variant.batches)])
        loss = sum(total / count for total, count in losses.values() if count)
        marks.append(mark(device))
        loss.backward()
        marks.append(mark(device))
    variant.optimiser.step()
    variant.optimiser.zero_grad()
    marks.append(mark(device))
    return marks


class Plain:
    """Steps of `obvious` on a CPU in a process of its own; call it as `step`, with their number."""

    def __init__(self, size: str, samples: Samples, batches: list[Batch], accumulate: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = theirs, size, samples, batches, accumulate, torch.get_num_threads()
        self._process = context.Process(target=_plain_steps, args=arguments, daemon=True)
        self._process.start()

    def __call__(self, number: int) -> list[Any]:
        self._connection.send(number)
        return self._connection.recv()

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def _plain_steps(
    connection: Connection, size: str, samples: Samples, batches: list[Batch], accumulate: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    variant = build("obvious", size, samples, batches, device)
    while (number := connection.recv()) is not None:
        connection.send(step(variant, number, device, accumulate))


def flops(size: str, samples: Samples, batches: list[Batch]) -> float:
    """Of the matrix products of a step, on average."""
    config, total = ModelConfig.model_validate({"size": size}), 0.0
    for batch in batches:
        (B, N), M = batch.encoder.ids.shape, batch.decoder.ids.shape[1]
        patches = {name: float(len(one.values)) for name, one in batch.continuous.items()}
        counts = {name: float(count) for name, count in batch.target_counts.items()}
        total += training_flops(
            forward_flops(config, samples.vocabulary, B=B, N=N, M=M, targets=counts, patches=patches)
        )
    return total / len(batches)


def rate(device: torch.device) -> float:
    """FLOP/s that the device could do: a known GPU's by its data sheet, any other's measured."""
    if device.type == "cuda" and (known := named_peak(torch.cuda.get_device_name(device), bf16=True)):
        return known.flops_per_s
    return matmul_rate(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


def timed(
    names: list[str],
    size: str,
    samples: Samples,
    batches: list[Batch],
    device: torch.device,
    steps: int,
    accumulate: int,
    rates: list[float],
) -> tuple[dict[str, list[list[float]]], str]:
    """Variant -> seconds of the parts of each step, taken in turns; a GPU's memory in GiB. Adds the device's FLOP/s,
    measured after each round, to `rates`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    plain = Plain(size, samples, batches, accumulate) if device.type == "cpu" and "obvious" in names else None
    takes: dict[str, Callable[[int], list[Any]]] = {"obvious": plain} if plain is not None else {}
    for name in names:
        if name not in takes:
            variant = build(name, size, samples, batches, device)
            takes[name] = partial(step, variant, device=device, accumulate=accumulate)
    marks: dict[str, list[list[Any]]] = {name: [] for name in names}
    for number in range(steps + WARM_UP):
        for name in names:
            marks[name].append(takes[name](number))
        if number >= WARM_UP:
            rates.append(rate(device))
    if plain is not None:
        plain.close()
    if device.type == "cuda":
        torch.cuda.synchronize()
    spent = {}
    for name, of_steps in marks.items():
        times = [[seconds_between(*pair) for pair in pairwise(each)] for each in of_steps[WARM_UP:]]
        spent[name] = [[sum(each[:-1:2]), sum(each[1:-1:2]), each[-1]] for each in times]
    return spent, f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if device.type == "cuda" else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=["Ti", "S", "B", "L", "XL"], help="default: Ti")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: fast")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="input tokens, and target tokens, a sample")
    parser.add_argument("--accumulate", type=int, default=1, help="batches a step; default: 1")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_memory()  # as the trainer does
    elif "obvious-kept" in (options.variant or ()):
        parser.error("obvious-kept is for CPUs; leave it out")
    samples, rng = Samples(tokens=options.tokens), np.random.default_rng(0)
    began = time.perf_counter()
    batches = [samples.batch(options.batch, rng) for _ in range(4)]
    packing = (time.perf_counter() - began) / 4
    times = f"{options.accumulate} x " if options.accumulate > 1 else ""
    shape = f"{times}{options.batch} samples of {options.tokens} + {options.tokens} tokens"
    print(f"{shape}; masking and packing one batch: {1000 * packing:.0f} ms\n")
    columns = "size", "variant", "ms a step", "samples/s", "mfu", *(f"times {other}" for other in OBVIOUS), "GiB"
    print("|", " | ".join([*columns, "forward, backward, optimiser"]), "|")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in options.size or ["Ti"]:
        # Those that the others are compared with first: a row is printed as soon as it is known.
        names = sorted(options.variant or ["fast"], key=lambda name: name not in OBVIOUS)
        work, seconds, rates = options.accumulate * flops(size, samples, batches), dict[str, float](), list[float]()
        # Alone on a GPU, which has room for one; in turns on a CPU, so that other load hits all alike.
        for group in [[name] for name in names] if device.type == "cuda" else [names]:
            try:
                spent, memory = timed(group, size, samples, batches, device, options.steps, options.accumulate, rates)
            except torch.OutOfMemoryError:
                print(f"| 4M-{size} | {group[0]} | out of memory |" + " |" * 6, flush=True)
                continue
            finally:
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            for name in group:
                seconds[name] = median(map(sum, spent[name]))
                ratios = [f"{seconds[other] / seconds[name]:.2f}" if other in seconds else "" for other in OBVIOUS]
                shares = ", ".join(f"{median(part) / seconds[name]:.0%}" for part in zip(*spent[name], strict=True))
                speed = f"{1000 * seconds[name]:.1f}", f"{options.accumulate * options.batch / seconds[name]:.1f}"
                row = f"4M-{size}", name, *speed, f"{work / seconds[name] / median(rates):.0%}", *ratios, memory, shares
                print("|", " | ".join(row), "|", flush=True)
        if rates:
            print(f"\nmfu: share of {median(rates) / 1e9:.1f} GFLOP/s ({device}, {torch.get_num_threads()} threads)\n")


if __name__ == "__main__":
    main()

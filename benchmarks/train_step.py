"""Time of a training step by part, and as a share of the machine's matrix-product rate.

    python benchmarks/train_step.py --size Ti --batch 4 --tokens 128

Prints milliseconds of drawing and packing, forward, backward and optimiser; the arithmetic of the model's products over
that time; and beside it the rate of one large product measured in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from published import Samples

from fourm_engine.batch import Batch
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_rate(device: torch.device, dtype: torch.dtype, clock: Callable[[torch.device], float] = now) -> float:
    """FLOP/s of a large square product."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):
        began = clock(device)
        a @ b
        times.append(clock(device) - began)
    return 2 * n**3 / sorted(times[1:])[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="Ti", choices=["Ti", "S", "B", "L", "XL"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="input tokens, and target tokens, a sample")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    samples, rng = Samples(tokens=options.tokens), np.random.default_rng(0)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(size=options.size, compile=options.compile), samples.vocabulary).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    spent = dict.fromkeys(("draw and pack", "forward", "backward", "optimiser"), 0.0)
    flops = 0.0
    for step in range(options.steps + 3):
        t0 = now(device)
        batch = samples.batch(options.batch, rng)
        t1 = now(device)
        batch = batch.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            losses = model(batch)
        loss = sum(total / count for total, count in losses.values() if count) / len(losses)
        t2 = now(device)
        loss.backward()
        t3 = now(device)
        optimiser.step()
        optimiser.zero_grad()
        t4 = now(device)
        if step >= 3:  # the first ones warm up (and compile)
            for part, seconds in zip(spent, (t1 - t0, t2 - t1, t3 - t2, t4 - t3), strict=True):
                spent[part] += seconds / options.steps
            flops += step_flops(model, batch, samples.vocabulary) / options.steps
    total = sum(spent.values())
    rate, peak = flops / total, matmul_rate(device, dtype)
    print(
        f"4M-{options.size}, {options.batch} samples of {options.tokens} + {options.tokens} tokens, {device}, {dtype}"
    )
    for part, seconds in spent.items():
        print(f"  {part:14} {1000 * seconds:8.1f} ms  {seconds / total:5.1%}")
    print(f"  step           {1000 * total:8.1f} ms, {options.batch / total:.1f} samples/s")
    print(
        f"  products of the model {rate / 1e9:.1f} GFLOP/s, {rate / peak:.0%} of one large product's {peak / 1e9:.1f}"
    )


def step_flops(model: Transformer, batch: Batch, vocabulary: Vocabulary) -> float:
    """Multiplications and additions of the model's matrix products in one step, backward counted twice."""
    encoder = sum(p.numel() for p in model.encoder.parameters() if p.dim() == 2)
    decoder = sum(p.numel() for p in model.decoder.parameters() if p.dim() == 2)
    rows_in, rows_out = batch.encoder.mod.numel(), batch.decoder.mod.numel()
    # Keys and values of cross-attention run over the encoder's rows.
    cross = sum(block.cross_attn.kv.weight.numel() for block in model.decoder)
    heads = sum(count * vocabulary[name].size * model.config.width for name, count in batch.target_counts.items())
    attention = (
        4
        * model.config.width
        * (
            len(model.encoder) * rows_in * batch.encoder.mod.shape[1]
            + len(model.decoder) * rows_out * (batch.encoder.mod.shape[1] + batch.decoder.mod.shape[1])
        )
        / 2
    )
    return 3 * 2 * (encoder * rows_in + (decoder - cross) * rows_out + cross * rows_in + heads + attention)


if __name__ == "__main__":
    main()

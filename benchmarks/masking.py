"""Samples per second that one core draws, masks, packs and collates, of the published 4M-7 mixture and lengths.

    OMP_NUM_THREADS=1 python -m benchmarks.masking

From what a store has loaded (five grids of 196 tokens, pixels of 196 patches, two sequences of 8 to 255 tokens) to a
`Batch`: generators, budgets, masks, rows and the copy of the kept patches. The two components are pixels to all and all
to all, alpha 0.5. Seconds are CPU seconds of the process, so that others on the machine count little; the median of
`--runs`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.published import Samples
from fourm_engine.data.order import sample_rng


def rate(work: Callable[[int], object], batch: int, samples: int, runs: int) -> float:
    """Samples per CPU second."""
    rates = []
    for run in range(runs):
        began = time.process_time()
        for first in range(run * samples, (run + 1) * samples, batch):
            work(first)
        rates.append(samples / (time.process_time() - began))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 64, 256], help="samples in a micro-batch")
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 256], help="input tokens, and targets, a sample")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for tokens in options.tokens:
        samples, rng = Samples(tokens=tokens), np.random.default_rng(0)
        loaded = [samples.contents(rng) for _ in range(256)]
        available = frozenset(samples.specs)
        draws = rate(
            lambda i, of=samples, has=available: of.budgets.draw(sample_rng(0, 0, i), has),  # type: ignore[misc]
            1,
            options.samples,
            options.runs,
        )
        print(f"{tokens} + {tokens} tokens: generators and budgets alone {draws:,.0f} samples/s")
        for batch in options.batch:

            def work(first: int, batch: int = batch, samples: Samples = samples, loaded: list = loaded) -> None:
                positions = range(first, first + batch)
                contents = [loaded[p % len(loaded)] for p in positions]
                samples.collate(samples.pack(contents, [sample_rng(0, 0, p) for p in positions]))

            per_second = rate(work, batch, options.samples, options.runs)
            print(f"  micro-batches of {batch:4}: {per_second:8,.0f} samples/s, {1e6 / per_second:.0f} µs a sample")


if __name__ == "__main__":
    main()

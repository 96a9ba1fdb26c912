"""How fast positions become rows, what that keeps in memory, and how far apart neighbours in a shard are mixed.

    python -m benchmarks.data_order

Needs no data: shards are sizes. Prints CPU microseconds a position of one process and of one of its workers, the memory
that the order keeps, and for each setting the positions between rows that are neighbours in a shard, the shards in a
batch, the shards that one process reads while it makes 64 batches, and how the orders of two epochs correlate.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import numpy as np

from fourm_engine.data.mixture import MixedOrder
from fourm_engine.data.order import Order, Share


def speed(order: Order | MixedOrder, share: Share, *, workers: int, batches: int) -> tuple[float, float]:
    """(CPU microseconds a position, MiB kept) of the first of `workers`, which takes every so many micro-batches."""
    tracemalloc.start()
    for step in (0, batches):  # all that is kept at a time: two windows of each lane
        for position in share.positions(step, 0):
            order.row(position)
    kept = tracemalloc.get_traced_memory()[0] / (1 << 20)
    tracemalloc.stop()
    began, positions = time.process_time(), 0
    for step in range(batches, 2 * batches, workers):
        for position in share.positions(step, 0):
            order.row(position)
            positions += 1
    return (time.process_time() - began) / positions * 1e6, kept


def mixing(sizes: np.ndarray, *, lanes: int, window: int) -> str:
    """A row of the table of docs/data.md."""
    order, n = Order(sizes, 0, lanes=lanes, window=window), int(sizes.sum())
    first, second = (np.array([order.row(epoch * n + index) for index in range(n)]) for epoch in range(2))
    at, later = np.empty(n, np.int64), np.empty(n, np.int64)
    at[first], later[second] = np.arange(n), np.arange(n)
    shard = np.repeat(np.arange(len(sizes)), sizes)
    inside = shard[1:] == shard[:-1]
    apart = np.abs(np.diff(at))[inside]
    low, median, high = (f"{int(q):,}" for q in np.quantile(apart, (0.05, 0.5, 0.95)))
    in_batch = [np.mean([len(set(shard[first[i : i + b]])) for i in range(0, n - b, 50 * b)]) for b in (256, 1024)]
    share = Share(0, 8, 1024, lanes=lanes)
    read = [order.row(p) for step in range(64) for p in share.positions(step, 0)]
    correlation = np.corrcoef(at, later)[0, 1]
    return (
        f"| {lanes} | {window if lanes > 1 else '–'} | {low} / {median} / {high} "
        f"| {in_batch[0]:.0f} / {in_batch[1]:.0f} "
        f"| {len(set(shard[read]))} | {correlation:+.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--batches", type=int, default=1300, help="steps of 1024 samples; a window lasts 1250")
    options = parser.parse_args()
    sizes = np.random.default_rng(0).multinomial(options.rows, np.full(options.shards, 1 / options.shards))
    print(f"{options.rows:,} rows in {options.shards:,} shards, 64 lanes, window 4, batches of 1024")
    for label, world, workers in (("1 process", 1, 1), ("1 of 8 processes", 8, 1), ("1 of its 4 workers", 8, 4)):
        for kind in ("one data set", "three data sets"):
            orders = [Order(sizes, 0, lanes=64, part=part) for part in range(3)]
            order = orders[0] if kind == "one data set" else MixedOrder(orders, [5, 3, 2], 0, lanes=64)
            micros, kept = speed(order, Share(0, world, 1024, lanes=64), workers=workers, batches=options.batches)
            print(f"{label}, {kind}: {micros:.1f} µs a position, {kept:.1f} MiB kept")
    print("\n1,000 shards of 1,000 rows; a step of 1024 samples over 8 processes\n")
    print(
        "| lanes | window | positions between neighbours, 5 / 50 / 95% | shards in a batch of 256 / 1024 "
        "| shards a process reads in 64 steps | correlation of two epochs |\n|---|---|---|---|---|---|"
    )
    for lanes, window in ((64, 1), (64, 4), (64, 16), (256, 4), (1, 4)):
        print(mixing(np.full(1000, 1000), lanes=lanes, window=window), flush=True)


if __name__ == "__main__":
    main()

"""Several data sets in one: `Mixture` is their store, `MixedOrder` says which of them each position takes.

A block of a lane has of each data set as many samples as its share of all blocks until then calls for, in an order
drawn for the block. The n-th sample of a data set in a lane is the n-th of that lane in the data set's own order. So
each data set has its own epochs, with every sample once per epoch, and everything follows from the position.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import TrainingSet
from fourm_engine.data.names_table import LazyNames
from fourm_engine.data.order import Order, block_rng, lanes_for
from fourm_engine.data.store import Store
from fourm_plugins.counting import counted

#: Samples of a block.
BLOCK = 1000
#: Shares are integers below this, so that they are equal on every machine.
_UNITS = 1 << 40


class Mixture(Store):
    """The samples of several stores, one store after another. Their views and modalities may differ.

    Args:
        stores: name, for messages -> store.
        entries: of each, with `weight` or `repeats`, what share of the samples is drawn from it."""

    def __init__(self, stores: Mapping[str, Store], entries: Sequence[TrainingSet]) -> None:
        self.stores, self.entries = dict(stores), list(entries)
        self.weights = [
            entry.weight or len(store) * (entry.repeats or 1)
            for entry, store in zip(entries, stores.values(), strict=True)
        ]
        self._parts = list(stores.values())
        self.names = _Joined([store.names for store in self._parts])
        self._begins = [0, *accumulate(map(len, self._parts))]
        self.reads_ahead = any(store.reads_ahead for store in self._parts)
        self.views = math.lcm(*(store.views for store in self._parts))  # `load` takes it modulo those of the store

    def __len__(self) -> int:
        return self._begins[-1]

    @property
    def shard_sizes(self) -> np.ndarray:
        return np.concatenate([store.shard_sizes for store in self._parts])

    def order(
        self, seed: int, *, lanes: int | None = None, window: int = 4, batch_size: int | None = None, world: int = 1
    ) -> MixedOrder:
        """The order of its samples. `lanes`: as configured; None chooses: data sets that are read in lanes have as many
        as the one that needs most."""
        suits: dict[str, Any] = {"window": window, "batch_size": batch_size, "world": world}
        each = [lanes or lanes_for(s.shard_sizes, remote=s.reads_ahead, **suits) for s in self._parts]
        most = max(each)
        orders = [
            Order.choose(store.shard_sizes, seed, lanes=most if needed > 1 else 1, window=window, part=part)
            for part, (store, needed) in enumerate(zip(self._parts, each))
        ]
        return MixedOrder(orders, self.weights, seed, lanes=most)

    def has(self, row: int) -> frozenset[str]:
        store, row = self._find(row)
        return store.has(row)

    def kinds(self) -> Counter[frozenset[str]]:
        return sum((store.kinds() for store in self._parts), Counter[frozenset[str]]())

    def load(self, row: int, modality: str, view: int = 0) -> np.ndarray:
        store, row = self._find(row)
        return store.load(row, modality, view % store.views)

    def ahead(self, rows: Sequence[int], *, now: bool = False) -> None:
        for store, row in map(self._find, rows):
            store.ahead([row], now=now)

    def skip(self, row: int, bad: BadFile) -> None:
        store, row = self._find(row)
        store.skip(row, bad)

    def row_of(self, part: int, row: int) -> int:
        """The row here of that of a store."""
        return self._begins[part] + row

    def _find(self, row: int) -> tuple[Store, int]:
        part = bisect_right(self._begins, row) - 1
        return self._parts[part], row - self._begins[part]

    def identity(self) -> dict[str, Any]:
        return {
            f"train.{part}": {
                "samples": len(store),
                "weight": entry.weight,
                "repeats": entry.repeats,
                **({"sources": dict(sorted(entry.sources.items()))} if entry.sources else {}),
                **store.identity(),
            }
            for part, (entry, store) in enumerate(zip(self.entries, self._parts, strict=True))
        }

    def contents(self) -> dict[str, Any]:
        each = enumerate(store.contents() for store in self._parts)
        return {f"train.{part}.{key}": value for part, contents in each for key, value in contents.items()}

    def describe(self) -> str:
        """One line for the mixture and one for each data set."""
        total = sum(self.weights)
        sizes = f"{counted(len(self), 'sample')} in {counted(len(self._parts), 'data set')}"
        lines = [f"train: {sizes}; share of the samples drawn:"]
        for weight, store in zip(self.weights, self._parts, strict=True):
            lines.append(f"  {weight / total:.2%} {store.describe().removeprefix('train: ')}")
        return "\n".join(lines)

    def report(self) -> str:
        return "; ".join(store.report() for store in self._parts)


class _Joined(LazyNames):
    """Concatenated sequences of names, without a copy."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts, self._ends = parts, list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, row: int) -> str:
        part = bisect_right(self._ends, row)
        return self._parts[part][row - self._ends[part]]


class MixedOrder:
    """Position -> row of a `Mixture`, without end, as `Order` is for one data set.

    Args: orders: those of the data sets. weights: the share of positions of each, up to a common factor. lanes:
    position p is in lane p % lanes, in every data set too."""

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], seed: int, *, lanes: int) -> None:
        self.orders, self.weights, self.seed, self.lanes = list(orders), list(weights), seed, lanes
        total = math.fsum(weights)
        units = [max(1, round(weight / total * _UNITS)) for weight in weights]
        # Data set k takes units[k] of what those before it have left, units[k:].
        self._units = list(zip(units, list(accumulate(reversed(units)))[::-1], strict=True))
        self._begins = [0, *accumulate(order.n for order in orders)]
        self._arranged = lru_cache(maxsize=2 * lanes)(self._arrange)

    def __reduce__(self) -> tuple[Any, ...]:  # without what is kept
        return partial(MixedOrder, self.orders, self.weights, self.seed, lanes=self.lanes), ()

    def locate(self, position: int) -> tuple[int, int]:
        """(data set, position in its own order)."""
        index, lane = divmod(position, self.lanes)
        block, offset = divmod(index, BLOCK)
        parts, counts = self._arranged(lane, block)
        return int(parts[offset]), int(counts[offset]) * self.lanes + lane

    def position(self, row: int, epoch: int) -> int:
        """Where a row comes in an epoch of its data set: the inverse of `row`."""
        part = bisect_right(self._begins, row) - 1
        count, lane = divmod(self.orders[part].position(row - self._begins[part], epoch), self.lanes)
        most = 1
        while self._counts(lane, most)[part] <= count:
            most *= 2
        block = bisect_right(range(most), count, key=lambda block: int(self._counts(lane, block)[part])) - 1
        parts, counts = self._arranged(lane, block)
        offset = int(np.flatnonzero((parts == part) & (counts == count))[0])
        return (block * BLOCK + offset) * self.lanes + lane

    def rows(self, position: int) -> Iterator[int]:
        """The row at a position, then those that replace it, which are of the same data set."""
        part, position = self.locate(position)
        for row in self.orders[part].rows(position):
            yield self._begins[part] + row

    def row(self, position: int) -> int:
        """The row at a position."""
        return next(self.rows(position))

    def _arrange(self, lane: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(BLOCK,): the data set of each index of a block, and how many of that data set came before it in the lane."""
        begin, end = self._counts(lane, block), self._counts(lane, block + 1)
        sizes = end - begin
        parts = block_rng(self.seed, lane, block).permutation(np.repeat(np.arange(len(sizes)), sizes))
        counts = np.empty(len(parts), np.int64)
        ranks = [np.arange(b, e) for b, e in zip(begin, end, strict=True)]
        counts[np.argsort(parts, kind="stable")] = np.concatenate(ranks)
        return parts.astype(np.uint32), counts

    def _counts(self, lane: int, block: int) -> np.ndarray:
        """int64 (data sets,): samples of each before a block of a lane. Each is its share of the total to as many
        samples as there are data sets, however small the share: rounded with another phase in each lane, so that rare
        samples spread."""
        left, counts = block * BLOCK, []
        for units, rest in self._units:
            counts.append((left * units + rest * lane // self.lanes) // rest)
            left -= counts[-1]
        return np.array(counts, np.int64)

    def identity(self) -> dict[str, Any]:
        """Settings that the rows at positions follow from, JSON-ready."""
        windows = {order.window for order in self.orders if order.lanes > 1}
        each = {f"train.{part}.lanes": order.lanes for part, order in enumerate(self.orders)}
        return {"lanes": self.lanes} | each | ({"window": windows.pop()} if windows else {})

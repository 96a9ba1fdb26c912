"""The order of samples, and the generator of each, as pure functions of integers: resuming needs one integer, and the
number of workers and processes changes nothing. Philox is counter-based: distinct counters are independent streams.

`Order` maps positions to rows so that only a few shards are read at a time and nothing is stored per row. In each epoch
the shards are permuted, and their rows are concatenated and cut into `lanes` of equal length. Position p is in lane p %
lanes; within a lane, rows are shuffled in windows of some shards. `Share` assigns lanes to processes, so any number of
processes that divides the lanes sees the same global batches.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

#: Up to this many rows, an epoch is one permutation (4 bytes per row), unless the config sets lanes.
FULL_ROWS = 1_000_000
LANES = 64
#: Automatically chosen lanes read at most one in this many shards of a remote data set at a time.
REMOTE_SHARE = 4
#: A store without shards that is too large for one permutation is read in chunks of this many rows.
PIECE = 1000
_ORDER, _SAMPLE, _SHARDS, _BLOCK = range(4)
_WORD = (1 << 64) - 1


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (n,): a permutation of range(n)."""
    return _generator(seed, _ORDER, epoch, 0).permutation(n)


def sample_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator of the sample at `position` of an epoch, for its view, budgets and masks."""
    return _generator(seed, _SAMPLE, epoch, position)


def block_rng(seed: int, lane: int, block: int) -> np.random.Generator:
    """The generator of a block of a lane, for the data set of each of its positions."""
    return _generator(seed, _BLOCK, lane, block)


def name_rng(seed: int, *parts: str | int) -> np.random.Generator:
    """The generator of a named item (such as a sample's stored crop), independent of all others."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _generator(seed: int, stream: int, epoch: int, position: int) -> np.random.Generator:
    # The two low words of the counter count the draws; the two high ones identify the stream.
    counter = np.array([0, 0, position, epoch], np.uint64)  # uint64 throughout: lists of large integers become floats
    return np.random.Generator(np.random.Philox(key=np.array([seed & _WORD, stream], np.uint64), counter=counter))


def lanes_for(
    shard_sizes: np.ndarray, *, window: int = 4, remote: bool = False, batch_size: int | None = None, world: int = 1
) -> int:
    """The default number of lanes of a data set: one permutation up to `FULL_ROWS` rows, otherwise `LANES`. For a
    remote data set, whose shards are copied before they are read, so many that only a few shards are read at a time; if
    it has too few shards for that, one permutation. The number is compatible with `batch_size` and `world`, the number
    of processes; see `Share`."""
    rows, shards, lanes = int(np.sum(shard_sizes)), int(np.count_nonzero(shard_sizes)), LANES
    if rows <= FULL_ROWS:
        if not remote:
            return 1
        while lanes > 1 and lanes * (window + 1) * REMOTE_SHARE > shards:
            lanes //= 2
    fewer = lanes
    while fewer > 1 and (fewer % world or (batch_size and max(fewer, batch_size) % min(fewer, batch_size))):
        fewer //= 2
    return fewer if fewer > 1 or lanes == 1 else world  # which divides every batch


class Order:
    """An endless map from positions to rows: position p is index p % n of epoch p // n, and every epoch is a
    permutation of the n rows.

    Args:
        shard_sizes: int64 (shards,), number of rows of each shard; rows of a shard are consecutive.
        lanes: index i is in lane i % lanes; with one lane, an epoch is one permutation of all rows.
        window: number of shards within which the rows of a lane are shuffled.
        part: index of the data set in a mixture; each has a different order."""

    def __init__(self, shard_sizes: np.ndarray, seed: int, *, lanes: int = 1, window: int = 4, part: int = 0) -> None:
        sizes = np.asarray(shard_sizes, np.int64)
        self.n, self.seed, self.lanes, self.window, self.part = int(sizes.sum()), seed, lanes, window, part
        if lanes == 1:
            sizes, self._window_rows = np.array([self.n]), self.n
        else:
            if len(sizes) == 1:
                sizes = np.diff(np.append(np.arange(0, self.n, PIECE), self.n))
            self._window_rows = max(1, window * self.n // max(1, int((sizes > 0).sum())))
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        # Lanes move on to the next window or epoch at different times. Small data repeats many epochs in a batch.
        self._epoch = lru_cache(maxsize=2)(self._lay_out)
        self._shuffled = lru_cache(maxsize=2 * lanes + PIECE // max(1, self.n))(self._shuffle)

    @classmethod
    def choose(
        cls,
        shard_sizes: np.ndarray,
        seed: int,
        *,
        lanes: int | None = None,
        window: int = 4,
        part: int = 0,
        remote: bool = False,
        batch_size: int | None = None,
        world: int = 1,
    ) -> Order:
        """The order for a store. `lanes`: as configured, or None to choose automatically; a store of one shard then
        uses one permutation of up to `FULL_ROWS` rows. For the other arguments, see `lanes_for`."""
        if lanes is None:
            lanes = lanes_for(shard_sizes, window=window, remote=remote, batch_size=batch_size, world=world)
        elif len(shard_sizes) == 1 and int(np.sum(shard_sizes)) <= FULL_ROWS:
            lanes = 1
        return cls(shard_sizes, seed, lanes=lanes, window=window, part=part)

    def __reduce__(self) -> tuple[Any, ...]:  # without what is kept
        return partial(Order, self._sizes, self.seed, lanes=self.lanes, window=self.window, part=self.part), ()

    def row(self, position: int) -> int:
        """The row at a position."""
        return next(self.rows(position))

    def rows(self, position: int) -> Iterator[int]:
        """The row at a position, then its replacements in case it is unusable: the next ones of its lane in the same
        epoch, then those of the following lanes. Each row occurs once."""
        epoch, index = divmod(position, self.n)
        slot, first = divmod(index, self.lanes)
        for ahead in range(self.lanes):
            lane = (first + ahead) % self.lanes
            length = self._length(lane)
            for further in range(length):
                yield self._row(epoch, lane, (slot + further) % length)

    def position(self, row: int, epoch: int) -> int:
        """The index of a row in an epoch: the inverse of `row`."""
        ends, shifts = self._epoch(epoch)
        begins = [0, *ends[:-1]]
        laid = next(row - s for begin, end, s in zip(begins, ends, shifts, strict=True) if begin <= row - s < end)
        short, longer = divmod(self.n, self.lanes)
        first = longer * (short + 1)  # of the shorter lanes
        lane = laid // (short + 1) if laid < first else longer + (laid - first) // short
        slot = laid - lane * short - min(lane, longer)
        window, begin, end = self._window(lane, slot)
        slot = begin + int(np.flatnonzero(self._shuffled(epoch, lane, window, end - begin) == slot - begin)[0])
        return epoch * self.n + slot * self.lanes + lane

    def _window(self, lane: int, slot: int) -> tuple[int, int, int]:
        """(number, first slot, end) of the window that contains a slot."""
        length = self._length(lane)
        windows = max(1, round(length / self._window_rows))  # of equal length, so that none is a small remainder
        window = ((slot + 1) * windows - 1) // length
        return window, window * length // windows, (window + 1) * length // windows

    def _length(self, lane: int) -> int:
        """Number of rows of a lane. Longer lanes come first, so that index i is slot i // lanes of lane i % lanes."""
        return (self.n - lane + self.lanes - 1) // self.lanes

    def _row(self, epoch: int, lane: int, slot: int) -> int:
        window, begin, end = self._window(lane, slot)
        slot = begin + int(self._shuffled(epoch, lane, window, end - begin)[slot - begin])
        ends, shifts = self._epoch(epoch)
        short, longer = divmod(self.n, self.lanes)
        laid = lane * short + min(lane, longer) + slot
        return laid + shifts[bisect_right(ends, laid)]

    def _shuffle(self, epoch: int, lane: int, window: int, length: int) -> np.ndarray:
        """uint32 (length,): a permutation."""
        rng = _generator(self.seed, _ORDER | self.part << 8, epoch, lane << 32 | window)
        return rng.permutation(length).astype(np.uint32)

    def _lay_out(self, epoch: int) -> tuple[list[int], list[int]]:
        """Two arrays (shards,): the end of each shard in the epoch's concatenation, and the offset to its rows."""
        order = _generator(self.seed, _SHARDS | self.part << 8, epoch, 0).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[order])
        return ends.tolist(), (self._starts[order] - (ends - self._sizes[order])).tolist()

    def identity(self) -> dict[str, Any]:
        """The settings that determine the mapping, JSON-ready."""
        return {"lanes": self.lanes} | ({"window": self.window} if self.lanes > 1 else {})


@dataclass(frozen=True)
class Share:
    """This process's share of every step. The `batch_size` samples of a step are split over `accumulate` micro-batches
    of each of `world` processes; it must be divisible by their product. With several `lanes`, each process takes the
    positions of its lanes. Raises ValueError if lanes, processes and batch size do not divide one another."""

    rank: int = 0
    world: int = 1
    batch_size: int = 1
    accumulate: int = 1
    lanes: int = 1

    def __post_init__(self) -> None:
        lanes, batch = self.lanes, self.batch_size
        if lanes > 1 and max(lanes, batch) % min(lanes, batch):
            raise ValueError(
                f"data.lanes={lanes} and train.batch_size={batch}: one must be a multiple of the other; set data.lanes "
                f"to a divisor of the batch size"
            )
        if lanes > 1 and lanes % self.world:
            raise ValueError(
                f"data.lanes={lanes} cannot be shared by {self.world} processes; set data.lanes to a multiple of "
                f"{self.world}, which begins another order, or run a number of processes that divides it"
            )

    @property
    def micro_batch_size(self) -> int:
        """Number of samples in a micro-batch of this process."""
        return self.batch_size // (self.world * self.accumulate)

    def positions(self, step: int, micro: int) -> list[int]:
        """Positions, in the endless order of samples, of this process's micro-batch `micro` of `step`: the `rank`-th
        part of every block of `lanes` consecutive positions of the step."""
        run = min(self.lanes, self.batch_size) if self.lanes > 1 else self.batch_size
        mine, first = run // self.world, step * self.batch_size + self.rank * (run // self.world)
        size = self.micro_batch_size
        return [first + i // mine * run + i % mine for i in range(micro * size, (micro + 1) * size)]

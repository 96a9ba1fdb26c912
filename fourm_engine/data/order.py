"""The order of samples and the generator of each: pure functions of integers, so that resuming is an integer and
neither workers nor ranks change anything. Philox is counter-based: distinct counters are independent streams."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

_ORDER, _SAMPLE = 0, 1
_WORD = (1 << 64) - 1


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """int64 (n,): a permutation of range(n)."""
    return _generator(seed, _ORDER, epoch, 0).permutation(n)


def sample_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator of the sample at `position` of an epoch: which view, which budgets, which tokens."""
    return _generator(seed, _SAMPLE, epoch, position)


def name_rng(seed: int, *parts: str | int) -> np.random.Generator:
    """The generator of something known by name (a sample's recorded crop), whatever other samples there are."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _generator(seed: int, stream: int, epoch: int, position: int) -> np.random.Generator:
    # The two low words of the counter count the draws, the two high ones say whose draws they are.
    counter = np.array([0, 0, position, epoch], np.uint64)  # uint64 throughout: lists of large integers become floats
    return np.random.Generator(np.random.Philox(key=np.array([seed & _WORD, stream], np.uint64), counter=counter))


@dataclass(frozen=True)
class Share:
    """This process's part of every step. The `batch_size` samples of a step are split over `accumulate` micro-batches
    of every one of `world` processes; it is divisible by their product."""

    rank: int = 0
    world: int = 1
    batch_size: int = 1
    accumulate: int = 1

    @property
    def micro_batch_size(self) -> int:
        """Samples in one micro-batch of this process."""
        return self.batch_size // (self.world * self.accumulate)

    def positions(self, step: int, micro: int) -> range:
        """Positions in the endless, seeded order of samples that form this process's micro-batch `micro` of `step`."""
        first = step * self.batch_size + (self.rank * self.accumulate + micro) * self.micro_batch_size
        return range(first, first + self.micro_batch_size)

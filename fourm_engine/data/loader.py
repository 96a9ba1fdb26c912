"""From positions to batches.

Global batch s holds positions [s B, (s + 1) B); rank r of W takes the r-th of W equal parts, cut into `accumulate`
micro-batches. Nothing depends on the number of workers, and starting at step s gives the batches an uninterrupted run
gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count

import torch
from torch.utils.data import DataLoader

from fourm_engine.batch import Batch, collate
from fourm_engine.data.training import TrainingData


def local_positions(step: int, *, batch_size: int, rank: int = 0, world: int = 1) -> range:
    """Positions of a rank in global batch `step`. ValueError where the batch does not divide among the ranks."""
    if batch_size % world:
        raise ValueError(f"batch_size={batch_size} does not divide among {world} processes; use a multiple of {world}")
    share = batch_size // world
    start = step * batch_size + rank * share
    return range(start, start + share)


class MicroBatches:
    """Lists of positions, without end, from step `start_step` on: what a DataLoader takes as batch sampler."""

    def __init__(
        self, batch_size: int, *, start_step: int = 0, rank: int = 0, world: int = 1, accumulate: int = 1
    ) -> None:
        share = len(local_positions(0, batch_size=batch_size, rank=rank, world=world))
        if share % accumulate:
            raise ValueError(
                f"accumulate={accumulate} does not divide a process's {share} samples (batch_size={batch_size}, "
                f"{world} processes); use a divisor of {share}"
            )
        self.batch_size, self.start_step, self.rank, self.world = batch_size, start_step, rank, world
        self.micro = share // accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.start_step):
            mine = local_positions(step, batch_size=self.batch_size, rank=self.rank, world=self.world)
            for start in range(0, len(mine), self.micro):
                yield list(mine[start : start + self.micro])


def batches(
    data: TrainingData,
    *,
    batch_size: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """This rank's micro-batches from global step `start_step` on, without end, in order.

    batch_size: samples of a global batch. workers: processes that prepare batches ahead."""
    loader = DataLoader(
        data,
        batch_sampler=MicroBatches(batch_size, start_step=start_step, rank=rank, world=world, accumulate=accumulate),
        num_workers=workers,
        collate_fn=partial(
            collate, vocabulary=data.vocabulary, N=data.masking.encoder_tokens, M=data.masking.decoder_tokens
        ),
        # Its own generator, so that having workers or not leaves torch's global one alone.
        generator=torch.Generator().manual_seed(0),
        pin_memory=False,
    )
    yield from loader

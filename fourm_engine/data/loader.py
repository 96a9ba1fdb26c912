"""From positions to batches: the micro-batches of a process, as its share of every step says.

Nothing depends on the number of workers, and starting at step s gives the batches an uninterrupted run gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch.utils.data import DataLoader

from fourm_engine.batch import Batch, collate
from fourm_engine.data.order import Share
from fourm_engine.data.samples import MaskedSamples


@dataclass(frozen=True)
class MicroBatches:
    """Lists of positions, without end, from step `start_step` on: what a DataLoader takes as batch sampler."""

    share: Share
    start_step: int = 0

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.start_step):
            for micro in range(self.share.accumulate):
                yield list(self.share.positions(step, micro))


def batches(data: MaskedSamples, share: Share, *, start_step: int = 0, workers: int = 0) -> Iterator[Batch]:
    """A process's micro-batches from step `start_step` on, without end, in order.

    workers: processes that prepare batches ahead."""
    loader = DataLoader(
        data,
        batch_sampler=MicroBatches(share, start_step),
        num_workers=workers,
        collate_fn=partial(
            collate, vocabulary=data.vocabulary, N=data.masking.encoder_tokens, M=data.masking.decoder_tokens
        ),
        # Its own generator, so that having workers or not leaves torch's global one alone.
        generator=torch.Generator().manual_seed(0),
        pin_memory=False,
    )
    yield from loader

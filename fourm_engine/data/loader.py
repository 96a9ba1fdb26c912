"""From positions to batches: the micro-batches of a process, as its share of every step says.

The batches do not depend on the number of workers, and those from step s on are those of an uninterrupted run.
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
    """The micro-batches of a process from step `start_step` on, in order, without end.

    workers: processes that prepare batches ahead."""
    loader = DataLoader(
        data,
        batch_sampler=MicroBatches(share, start_step),
        num_workers=workers,
        collate_fn=partial(
            collate, vocabulary=data.vocabulary, N=data.masking.encoder_tokens, M=data.masking.decoder_tokens
        ),
        # Otherwise the loader draws from torch's global generator, and more often with workers than without.
        generator=torch.Generator().manual_seed(0),
        pin_memory=False,
    )
    yield from loader

"""From positions to batches: a process's micro-batches, its share of every step. Batches do not depend on the number of
workers, and from step s on they are those of an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from fourm_engine.batch import Batch, PackedSample, collate
from fourm_engine.data.order import Share
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.workers import ErrorsAsItems, end_with_parent, items
from fourm_engine.device import local_world, usable_cores
from fourm_plugins.errors import one_line

#: More workers than this do not speed up the GPU that they serve.
MAX_WORKERS = 8
#: Rows of a trimmed batch are a multiple of this, so that few shapes occur.
ROWS = 16


@dataclass(frozen=True)
class MicroBatches:
    """Lists of positions, without end, from step `start_step` on: what a DataLoader takes as batch sampler."""

    share: Share
    start_step: int = 0

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.start_step):
            for micro in range(self.share.accumulate):
                yield list(self.share.positions(step, micro))


def _collated(samples: list[PackedSample] | Exception, *, trim: bool, **options: Any) -> Batch | Exception:
    if isinstance(samples, Exception):
        return samples
    if trim:
        used = {"N": max(s.encoder.shape[1] for s in samples), "M": max(s.decoder.shape[1] for s in samples)}
        options |= {name: trimmed(n, options[name]) for name, n in used.items()}
    batch = collate(samples, **options)
    if get_worker_info() is None:
        return batch
    try:  # as the worker's queue would do, whose thread loses the batch where it cannot, and the run waits for it
        return batch.share_memory()
    except RuntimeError as error:
        return ValueError(
            f"no shared memory for what data workers prepare: {one_line(error):.200}; give the machine more (such as "
            f"docker run --shm-size=1g), or set data.workers=0"
        )


def trimmed(rows: int, capacity: int) -> int:
    """Rows of a trimmed batch whose longest sample has so many."""
    return min(capacity, max(1, rows + -rows % ROWS))


def batches(
    data: MaskedSamples, share: Share, *, start_step: int = 0, workers: int | None = 0, trim: bool = False
) -> Iterator[Batch]:
    """The micro-batches of a process from step `start_step` on, in order, without end; in pinned memory where the
    process uses a GPU. What cannot be read is raised unchanged, whichever process reads it.

    workers: processes that prepare batches ahead, two each; None: `default_workers`. trim: cut a batch to the rows
    that any of its samples uses, rounded up to a multiple of `ROWS`."""
    on_gpu = torch.cuda.is_initialized()
    loader = DataLoader(
        ErrorsAsItems(data),
        batch_sampler=MicroBatches(share, start_step),
        num_workers=default_workers(on_gpu=on_gpu) if workers is None else workers,
        collate_fn=partial(
            _collated,
            trim=trim,
            vocabulary=data.vocabulary,
            N=data.masking.encoder_tokens,
            M=data.masking.decoder_tokens,
        ),
        # Otherwise the loader draws from torch's global generator, and more often with workers than without.
        generator=torch.Generator().manual_seed(0),
        pin_memory=on_gpu,
        worker_init_fn=end_with_parent,
    )
    yield from items(loader)


def default_workers(*, on_gpu: bool) -> int:
    """Workers of a process: with a GPU its part of the usable cores, up to `MAX_WORKERS`; none on a CPU, whose cores
    train."""
    return min(MAX_WORKERS, max(1, usable_cores() // local_world())) if on_gpu else 0

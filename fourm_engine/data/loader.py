"""Loads a process's micro-batches, its share of every step. Batches do not depend on the number of workers, and from
step s on they equal those of an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

#: Maximum number of workers per GPU; more bring no speed-up.
MAX_WORKERS = 8
#: Trimmed batches are rounded up to a multiple of this length, so that few shapes occur.
ROWS = 16


def micro_batches(share: Share, start_step: int = 0) -> Iterator[list[int]]:
    """The positions of a process's micro-batches, without end, from step `start_step` on."""
    for step in count(start_step):
        for micro in range(share.accumulate):
            yield share.positions(step, micro)


def load(
    data: Any, share: Share, collate: Callable[[Any], Any], *, start_step: int = 0, workers: int | None = 0
) -> Iterator[Any]:
    """An endless iterator of a process's micro-batches of `data`, in order, from step `start_step` on; in pinned memory
    if the process uses a GPU. Errors of reading are raised unchanged, also those of workers.

    collate: a list of samples, or the error that one raised -> a batch, or the error. workers: worker processes, which
    prepare two batches each ahead of time; None: `default_workers`."""
    on_gpu = torch.cuda.is_initialized()
    loader = DataLoader(
        ErrorsAsItems(data),
        batch_sampler=micro_batches(share, start_step),
        num_workers=default_workers(on_gpu=on_gpu) if workers is None else workers,
        collate_fn=collate,
        # Otherwise the loader draws from torch's global generator, more often with workers than without.
        generator=torch.Generator().manual_seed(0),
        pin_memory=on_gpu,
        worker_init_fn=end_with_parent,
    )
    yield from items(loader)


def _collated(samples: list[PackedSample] | Exception, *, trim: bool, **options: Any) -> Batch | Exception:
    if isinstance(samples, Exception):
        return samples
    if trim:
        used = {"N": max(s.encoder.shape[1] for s in samples), "M": max(s.decoder.shape[1] for s in samples)}
        options |= {name: trimmed(n, options[name]) for name, n in used.items()}
    batch = collate(samples, **options)
    if get_worker_info() is None:
        return batch
    try:  # the worker's queue would do this in a thread, where an error loses the batch and the run hangs
        return batch.share_memory()
    except RuntimeError as error:
        return ValueError(
            f"no shared memory for what data workers prepare: {one_line(error):.200}; give the machine more (such as "
            f"docker run --shm-size=1g), or set data.workers=0"
        )


def trimmed(rows: int, capacity: int) -> int:
    """Length of a trimmed batch, given that of its longest sample."""
    return min(capacity, max(1, rows + -rows % ROWS))


def batches(
    data: MaskedSamples, share: Share, *, start_step: int = 0, workers: int | None = 0, trim: bool = False
) -> Iterator[Batch]:
    """The micro-batches of masked samples; see `load`. trim: cut a batch to the length of its longest sample, rounded
    up to a multiple of `ROWS`."""
    capacity: dict[str, Any] = {"N": data.masking.encoder_tokens, "M": data.masking.decoder_tokens}
    collate = partial(_collated, trim=trim, vocabulary=data.vocabulary, **capacity)
    return load(data, share, collate, start_step=start_step, workers=workers)


def default_workers(*, on_gpu: bool) -> int:
    """Number of workers of a process: with a GPU its share of the usable cores, up to `MAX_WORKERS`; none on a CPU,
    whose cores are busy training."""
    return min(MAX_WORKERS, max(1, usable_cores() // local_world())) if on_gpu else 0

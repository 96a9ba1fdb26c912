"""Worker processes that compute results ahead of time: torch's DataLoader, with errors in one line.

The DataLoader wraps an error in the worker's traceback; here it is the same as without workers. A worker whose parent
is killed exits instead of waiting forever.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from fourm_engine.device import local_world, usable_cores
from fourm_engine.files import alive

#: Maximum number of workers; one process cannot consume the results of more.
MAX_WORKERS = 64
#: With fewer samples, starting workers takes longer than they save.
MIN_SAMPLES = 500
#: Tasks that each worker prepares ahead.
AHEAD = 2

Item = TypeVar("Item")
Task_contra = TypeVar("Task_contra", contravariant=True)
Item_co = TypeVar("Item_co", covariant=True)
_TERM = {signal.SIGTERM}
_ENDED = re.compile(r"DataLoader worker .*?(killed by signal: [\w ]+|exited unexpectedly)", re.DOTALL)


class WorkerEnded(ValueError):
    """A worker process was killed."""


class Work(Protocol[Task_contra, Item_co]):
    """`work[task]` is the result of a task; picklable."""

    def __getitem__(self, task: Task_contra, /) -> Item_co: ...


def ahead(
    work: Work[Any, Item], tasks: Iterable[Any], *, workers: int, setting: str = "data.workers"
) -> Iterator[Item]:
    """Yield `work[task]` for each of `tasks`, in order, computed in `workers` processes up to `AHEAD` tasks ahead each;
    with 0, in this process. Raises the errors of `work`, and WorkerEnded, which names the `setting` of the number of
    workers."""
    if not workers:
        return map(work.__getitem__, tasks)
    loader: DataLoader[Item | Exception] = DataLoader(
        ErrorsAsItems(work),
        sampler=tasks,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=end_with_parent,
        generator=torch.Generator().manual_seed(0),
    )
    return items(loader, setting)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Split the items into lists of `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _as_it_is(item: Item) -> Item:
    return item


def preparing_workers(samples: int) -> int:
    """Number of worker processes that read and decode for this one: its share of the machine's cores; 0 if there are
    too few samples to be worth starting them."""
    share = min(usable_cores() // local_world(), MAX_WORKERS)
    return share if share > 1 and samples >= MIN_SAMPLES else 0


class ErrorsAsItems(Dataset):
    """The items of `data`, or the error raised instead, if a user can fix it."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.data[index]
        except (ValueError, OSError) as error:
            return error

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        try:
            return self.data.__getitems__(indices)
        except (ValueError, OSError) as error:
            return error


def end_with_parent(_: int = 0) -> None:
    """Initialise a worker, so that it exits when its parent has exited or terminates it. SIGTERM from any other sender
    is ignored: torchrun and Slurm send it to all processes, but the parent needs its workers to finish the step and
    write a checkpoint."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        if hasattr(signal, "sigtimedwait"):  # not on macOS
            signal.pthread_sigmask(signal.SIG_BLOCK, _TERM)
        threading.Thread(target=_watch, args=(parent.pid or 0, os.getppid()), daemon=True).start()


def _watch(parent: int, forked_by: int) -> None:
    """`forked_by`: the parent, or a fork server of its own (the default from Python 3.14 on), which ends with it."""
    while os.getppid() == forked_by and alive(parent):
        if not hasattr(signal, "sigtimedwait"):
            time.sleep(1)
        elif (sent := signal.sigtimedwait(_TERM, 1)) is not None and sent.si_pid == parent:
            os._exit(0)
    os._exit(1)


def items(loader: Iterable[Item | Exception], setting: str = "data.workers") -> Iterator[Item]:
    """The items that a loader of `ErrorsAsItems` yields. Raises the errors of its workers, and WorkerEnded if one
    ended."""
    # torch's handler of SIGCHLD would raise anywhere in this process when a worker dies. The loader notices it anyway,
    # when it waits for an item.
    handler = signal.getsignal(signal.SIGCHLD) if threading.current_thread() is threading.main_thread() else None
    iterator = iter(loader)
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)
    children = multiprocessing.active_children()
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if not (ended := _ENDED.search(str(error))):
                    raise
                raise WorkerEnded(_why(ended[1], children, setting)) from None
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        del iterator  # a traceback would keep it and the workers alive


def _why(ended: str, children: Sequence[multiprocessing.process.BaseProcess], setting: str) -> str:
    """The error for a worker that ended: by which signal, if known, and what to do."""
    killed = [-child.exitcode for child in children if child.exitcode is not None and child.exitcode < 0]
    if killed:
        ended = f"killed by signal: {signal.strsignal(killed[0])}"
    if signal.SIGBUS in killed or "Bus error" in ended:
        likely = "as shared memory was full, or a file was cut short while it was read"
    else:
        likely = "most likely for lack of memory"
    return f"a process that reads data ended ({ended}), {likely}; set {setting} to fewer, or to 0 to see where it ends"

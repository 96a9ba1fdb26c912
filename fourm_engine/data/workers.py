"""What goes wrong in worker processes of torch's DataLoader, as it would be said without workers: in one line.

Raised in a worker, an error would come out within the worker's traceback. A worker whose parent is killed would wait
without end for what it has read to be taken.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import Dataset

Item = TypeVar("Item")
_ENDED = re.compile(r"DataLoader worker .*?(killed by signal: \w+|exited unexpectedly)", re.DOTALL)


class Told(Dataset):
    """The items of `data`, or the error that a user can mend."""

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
    """What a worker calls first: it then ends when its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.pid,), daemon=True).start()


def _watch(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def items(loader: Iterable[Item | Exception]) -> Iterator[Item]:
    """What a loader of `Told` yields. Raises what its workers could not read, and ValueError for one that ended."""
    iterator = iter(loader)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not (ended := _ENDED.search(str(error))):
                raise
            raise ValueError(
                f"a process that reads data ended ({ended[1]}), most likely for lack of memory; set data.workers to "
                f"fewer, or to 0 to see where it ends"
            ) from None
        if isinstance(item, Exception):
            raise item
        yield item

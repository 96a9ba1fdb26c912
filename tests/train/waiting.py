"""Where a host would wait for a GPU: an error, also on a CPU, where nothing has to wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators whose result the host needs to go on: a number, or the shape of what follows.
READS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "_unique2", "unique_dim")
#: Not `numpy`, which torch itself refuses where a tensor is not on the CPU.
METHODS = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")


class Waits(AssertionError):
    """The host would have waited."""


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in READS or masked:
            raise Waits(f"{name}, which a host waits for")
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Raises Waits where the host would read what a device computes."""

    def waits(name):
        def method(*arguments, **options):
            raise Waits(f"Tensor.{name}, which a host waits for")

        return mock.patch.object(Tensor, name, method)

    patches = [waits(name) for name in METHODS]
    for patch in patches:
        patch.start()
    try:
        with _Watch():
            yield
    finally:
        for patch in patches:
            patch.stop()

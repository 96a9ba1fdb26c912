"""Meeting again: what the processes of a run agree on through the store of torchrun, before they form a group.

torchrun's agent keeps one store for all starts of its workers. In it lies what the processes of earlier starts wrote,
such as where they listened, and a process that reads it waits for one that is gone. So each start gets keys of its own.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

#: How long a name may be unknown: where machines start together, as in Kubernetes, it becomes known later.
KNOWN_SECONDS = 60.0


def check_address(address: str, *, seconds: float = KNOWN_SECONDS) -> None:
    """Wait until MASTER_ADDR is an address, as torch would for hours. Raises ValueError after `seconds`; an empty one
    is left to torch."""
    last = time.monotonic() + seconds
    while address:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > last:
                raise ValueError(
                    f"MASTER_ADDR={address!r:.80}: not an address of a machine ({error}); set it to the name or IP "
                    f"address of the first one, which all can reach"
                ) from error
        time.sleep(0.5)


def store_of_this_start(rank: int, world: int, timeout: timedelta) -> dist.Store:
    """torchrun's store, with keys of this start alone. Raises torch's DistStoreError if not all have come in time."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world, is_master=False, timeout=timeout)
    return dist.PrefixStore(f"fourm/{meet(store, rank, world, timeout)}", store)


def meet(store: dist.Store, rank: int, world: int, timeout: timedelta) -> str:
    """A name that the processes of this start share, and no other start has. Every process must call it."""
    mine = uuid.uuid4().hex
    if rank > 0:
        store.set(f"fourm/here/{rank}", mine)
        store.wait([f"fourm/start/{mine}"], timeout)  # a key that no earlier start can have written
        start = store.get(f"fourm/start/{mine}").decode()
        store.set(f"fourm/met/{start}/{rank}", "")
        return start
    # Who is here may be of an earlier start: it is asked again until the one of this start has answered.
    away, last = set(range(1, world)), time.monotonic() + timeout.total_seconds()
    while away:
        for other in sorted(away):
            if store.check([f"fourm/here/{other}"]):
                store.set(f"fourm/start/{store.get(f'fourm/here/{other}').decode()}", mine)
            if store.check([f"fourm/met/{mine}/{other}"]):
                away.remove(other)
        if time.monotonic() > last:
            raise dist.DistStoreError(f"rank {min(away)} has not come in {timeout.total_seconds():.0f} s")
        time.sleep(0.01)
    return mine

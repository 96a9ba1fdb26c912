"""Rendezvous: the processes of one launch agree on a key prefix in torchrun's store before they form a group.

torchrun's agent keeps one store for all restarts of its workers. Stale entries of an earlier start, such as addresses,
would make a process wait for one that has ended, so each start uses a separate prefix.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

#: Seconds for which MASTER_ADDR may fail to resolve: when machines start together, as in Kubernetes, DNS lags behind.
KNOWN_SECONDS = 60.0


def check_address(address: str, *, seconds: float = KNOWN_SECONDS) -> None:
    """Wait until MASTER_ADDR resolves, which torch would do for hours. Raises ValueError after `seconds`; an empty
    address is left to torch."""
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


def store_of_start(rank: int, world: int, timeout: timedelta) -> dist.Store:
    """torchrun's store, under the prefix of this start. Raises torch's DistStoreError if a process is missing after
    `timeout`."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world, is_master=False, timeout=timeout)
    return dist.PrefixStore(f"fourm/{agree_on_start(store, rank, world, timeout)}", store)


def agree_on_start(store: dist.Store, rank: int, world: int, timeout: timedelta) -> str:
    """A name shared by the processes of this start, and unique to it. Every process must call it."""
    token = uuid.uuid4().hex
    if rank > 0:
        store.set(f"fourm/here/{rank}", token)
        store.wait([f"fourm/start/{token}"], timeout)  # no earlier start can have written this key
        start = store.get(f"fourm/start/{token}").decode()
        store.set(f"fourm/met/{start}/{rank}", "")
        return start
    # An entry may be left from an earlier start: poll until every process of this start has answered.
    away, last = set(range(1, world)), time.monotonic() + timeout.total_seconds()
    while away:
        for other in sorted(away):
            if store.check([f"fourm/here/{other}"]):
                store.set(f"fourm/start/{store.get(f'fourm/here/{other}').decode()}", token)
            if store.check([f"fourm/met/{token}/{other}"]):
                away.remove(other)
        if time.monotonic() > last:
            raise dist.DistStoreError(f"rank {min(away)} has not come in {timeout.total_seconds():.0f} s")
        time.sleep(0.01)
    return token

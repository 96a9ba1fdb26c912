"""Rendezvous: the processes of one launch agree on a key prefix in torchrun's store before they form a group.

torchrun's agent keeps one store for all restarts of its workers. Stale entries of an earlier start, such as addresses,
would make a process wait for one that has ended, so each start uses a separate prefix. Nor does a process that comes to
the store of another run, whose MASTER_PORT it shares, write among the keys of that run's group.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from fourm_engine.device import rank_and_world
from fourm_plugins.errors import one_line

#: Seconds for which MASTER_ADDR may fail to resolve: when machines start together, as in Kubernetes, DNS lags behind.
KNOWN_SECONDS = 60.0
#: Seconds by which one process may start later than another.
LATE = 120.0


class NotMet(ValueError):
    """The processes of a launch do not find one another."""


def check_address(address: str, *, seconds: float = KNOWN_SECONDS) -> None:
    """Wait until MASTER_ADDR resolves, which torch would do for hours. Raises NotMet after `seconds`; an empty
    address is left to torch."""
    last = time.monotonic() + seconds
    while address:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > last:
                raise NotMet(
                    f"MASTER_ADDR={address!r:.80}: not an address of a machine ({error}); set it to the name or IP "
                    f"address of the first one, which all can reach"
                ) from error
        time.sleep(0.5)


def join(backend: str, *, meeting: timedelta, timeout: timedelta) -> None:
    """Form the process group of the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), with `timeout` for
    collectives. Raises NotMet, one line with the remedy, if the address is none, the port is taken, or a process is
    missing after `meeting`."""
    rank, world = rank_and_world()
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not address or not (port.isdecimal() and 0 < int(port) < 1 << 16):
        raise NotMet(
            f"the processes do not meet: MASTER_ADDR={address!r:.80} and MASTER_PORT={port!r:.80} are not an address "
            f"and a port; set them to those of the first machine, or start the processes with torchrun, which does"
        )
    check_address(address)
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)  # torchrun's agent keeps one for all starts
    try:
        store = dist.TCPStore(
            address,
            int(port),
            world,
            is_master=rank == 0 and not hosted,
            timeout=meeting,
            wait_for_workers=False,
            multi_tenant=True,
        )
        start = agree_on_start(store, rank, world, meeting)
        store.set_timeout(timeout)
        prefixed = dist.PrefixStore(f"fourm/{start}", store)
        dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world, timeout=meeting)
        _set_pg_timeout(timeout)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            why = f"MASTER_PORT={port} is in use on this machine; set another in all of them (torchrun: --master-port)"
        else:
            why = (
                f"{one_line(error):.300}; start all {world}, where MASTER_ADDR={address} and MASTER_PORT={port} lead "
                f"to rank 0 and all reach one another (GLOO_SOCKET_IFNAME chooses the network interface)"
            )
        raise NotMet(f"the processes do not meet: {why}") from error


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

"""Processes meet those of their own start, and say in one line why they cannot."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import processes
from fourm_engine.train.rendezvous import agree_on_start, check_address

WORLD, WAIT = 3, timedelta(seconds=60)


@pytest.fixture
def store():
    """As torchrun's agent keeps it for all starts of its workers; yields what makes clients of it."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return lambda: dist.TCPStore("127.0.0.1", server.port, wait_for_workers=False)


@pytest.mark.parametrize("first", range(WORLD))
def test_processes_of_each_start_share_a_name_that_no_other_start_has(store, first):
    """Whichever comes first, and although the store has what a killed process of an earlier start wrote."""

    def start(rank):
        if rank != first:
            time.sleep(0.2)
        return agree_on_start(store(), rank, WORLD, WAIT)

    names = []
    for _ in range(3):
        with ThreadPoolExecutor(WORLD) as pool:
            (name,) = set(pool.map(start, range(WORLD)))
        names.append(name)
        store().set("fourm/here/1", "killed")
    assert len(set(names)) == 3


def test_a_process_that_does_not_come_is_named(store):
    with pytest.raises(dist.DistStoreError, match="rank 1 has not come in 0 s"):
        agree_on_start(store(), 0, WORLD, timedelta(seconds=0.2))


@pytest.mark.parametrize("variables", [{}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"}, "taken"])
def test_variables_that_do_not_fit_are_one_line_with_the_remedy(monkeypatch, variables):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        if variables == "taken":
            variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(other.getsockname()[1])}
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", **variables}.items():
            monkeypatch.setenv(name, value)
        config = TrainConfig(batch_size=2, steps=1, lr=1e-3, device="cpu", threads=1)
        with pytest.raises(ValueError, match=r"the processes do not meet: .*torchrun") as caught, processes(config):
            pass
    assert "\n" not in str(caught.value)


def test_an_address_that_nobody_knows_is_named_and_one_that_becomes_known_is_waited_for(monkeypatch):
    with pytest.raises(ValueError, match=r"MASTER_ADDR='nowhere\.invalid': not an address of a machine \("):
        check_address("nowhere.invalid", seconds=0)
    known, tries = socket.getaddrinfo, []

    def later(address, port):
        tries.append(address)
        return known("127.0.0.1" if len(tries) > 1 else "nowhere.invalid", port)

    monkeypatch.setattr(socket, "getaddrinfo", later)
    check_address("later.invalid")
    assert len(tries) == 2

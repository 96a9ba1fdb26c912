"""Processes meet those of their own start, and say in one line why they cannot."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import meeting_time, patience, processes
from fourm_engine.train.rendezvous import NotMet, agree_on_start, check_address, join

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


@pytest.fixture
def process(monkeypatch):
    """Makes this process one of a launch of two, with these variables."""

    def tell(**variables):
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", **variables}.items():
            monkeypatch.setenv(name, str(value))

    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    return tell


def refused(meeting=2.0):
    """Why the processes do not meet."""
    with pytest.raises(NotMet, match=r"^the processes do not meet: ") as caught:
        join("gloo", meeting=timedelta(seconds=meeting), timeout=WAIT)
    assert not dist.is_initialized()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("port", [None, "abc", "0", "70000"])
def test_an_address_that_is_none_is_told_before_anybody_waits(process, port):
    process(**({} if port is None else {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}))
    assert f"MASTER_PORT={port or ''!r} are not an address and a port; set them" in refused()


def test_a_port_that_another_program_uses_is_named(process, store):
    port = store().port
    process(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    config = TrainConfig(batch_size=2, steps=1, lr=1e-3, device="cpu", threads=1)
    with pytest.raises(ValueError, match=f"MASTER_PORT={port} is in use on this machine; set"), processes(config):
        pass


@pytest.mark.parametrize("there", ["nobody", "a store without rank 0"])
def test_a_process_that_cannot_reach_the_first_one_ends_in_time_and_says_what_leads_there(process, store, there):
    port = free_port() if there == "nobody" else store().port
    process(RANK=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    began = time.monotonic()
    assert f"MASTER_ADDR=127.0.0.1 and MASTER_PORT={port} lead to rank 0" in refused()
    assert time.monotonic() - began < 30


def test_the_first_process_says_who_has_not_come(process):
    process(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    assert "rank 1 has not come in 1 s; start all 2, " in refused(meeting=1.0)


def test_processes_that_find_the_store_but_not_one_another_say_how_to_choose_the_interface(process, monkeypatch):
    process(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port(), WORLD_SIZE=1)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    assert "nowhere0" in (line := refused())
    assert "(GLOO_SOCKET_IFNAME chooses the network interface)" in line


def test_the_time_to_meet_does_not_limit_what_follows(process):
    """Processes meet in minutes or not at all; a collective may wait for another's export."""
    process(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port(), WORLD_SIZE=1)
    join("gloo", meeting=timedelta(seconds=2), timeout=timedelta(seconds=77))
    try:
        (group,) = {dist.group.WORLD._get_backend(torch.device("cpu"))}
        assert group.options._timeout == timedelta(seconds=77)
    finally:
        dist.destroy_process_group()
    assert meeting_time(600.0) < patience(600.0)
    assert meeting_time(None) == patience(None)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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

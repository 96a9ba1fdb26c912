"""Checks of hardware and torch: computes matrix products on the CPU and every GPU, and joins processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from fourm_engine.installed.doctor import Check

_SECONDS = 120
#: Two processes add 1 and 2; the first argument is the backend, then rank, world and port.
_REDUCE = """
import sys
import torch, torch.distributed as dist
backend, rank, world, port = sys.argv[1], *map(int, sys.argv[2:])
device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)
dist.init_process_group(backend, store=dist.TCPStore("127.0.0.1", port, is_master=False), rank=rank, world_size=world)
number = torch.full((), rank + 1.0, device=device)
dist.all_reduce(number)
assert number.item() == world * (world + 1) / 2, number
dist.destroy_process_group()
"""


def check_torch(*, wants_gpu: bool = False) -> Iterator[Check]:
    """torch computes, on the CPU and on every GPU."""
    try:
        import torch
    except Exception as error:  # a broken build raises OSError, ImportError and others
        yield Check("torch", "bad", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    yield _product("cpu", f"torch {torch.__version__}", "torch")
    if not torch.cuda.is_available():
        if wants_gpu:
            yield Check("gpu", "bad", "torch sees none, train.device is cuda", "set train.device to cpu or auto")
        else:
            yield Check("gpu", "note", "torch sees none; runs use the CPU")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        detail = f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield _product(f"cuda:{index}", detail, f"gpu {index}")


def _product(device: str, detail: str, name: str) -> Check:
    import torch

    try:
        a = torch.arange(64.0, device=device).reshape(8, 8)
        good = bool((a @ torch.eye(8, device=device) == a).all())
    except RuntimeError as error:
        return Check(name, "bad", f"{detail}: {' '.join(str(error).split()):.200}", "look at the driver")
    return Check(name, "ok" if good else "bad", f"{detail}: a product is {'right' if good else 'wrong'}")


def check_processes() -> Iterator[Check]:
    """Processes of this machine join a group and add numbers: two over gloo, one per GPU over NCCL."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        yield Check("gloo", "bad", "this torch has no torch.distributed", "install another build, or use one process")
        return
    yield _joined("gloo", 2)
    if torch.cuda.is_available():
        if dist.is_nccl_available():
            yield _joined("nccl", torch.cuda.device_count())
        else:
            yield Check("nccl", "note", "this torch has none; several GPUs cannot be used together")


def _joined(backend: str, world: int) -> Check:
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # their rendezvous
    command = [sys.executable, "-c", _REDUCE, backend]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(store.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    what = f"{world} process{'es' if world > 1 else ''}"
    try:
        errors = [process.communicate(timeout=_SECONDS)[1] for process in started]
    except subprocess.TimeoutExpired:
        return Check(backend, "bad", f"{what} did not join within {_SECONDS} s", "look at firewall and network names")
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        last = next((e.strip().splitlines()[-1] for e in errors if e.strip()), "no message")
        return Check(backend, "bad", f"{what}: {last:.200}", "look at firewall and network names")
    return Check(backend, "ok", f"{what} added a number")

"""Locks a folder for one command at a time, whether it is one process or several started by torchrun.

Each process holds an entry, a file locked by the operating system (`flock`), so that a killed process blocks nobody;
the entry identifies its holder. On file systems without such locks an entry is valid while its process is alive.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fourm_engine.device import check_launch, local_rank, rank_and_world
from fourm_engine.files import CannotWrite, alive, lock_file, remove_leftovers
from fourm_plugins.counting import printable

GATE = ".fourm-lock"
_MAX_BYTES = 1 << 14
#: Seconds that a command waits for others to enter or leave, each of which takes a moment.
GATE_SECONDS = 600.0
#: Seconds that a process that cannot enter waits for the first one of its machine, to see whether that can.
HEAD_START = 5.0
#: Entry -> (its open file, number of blocks of this process that hold it).
_held: dict[str, tuple[int, int]] = {}


class Busy(ValueError):
    """Another command is using the folder; the message says which."""

    reported = False  # whether another process reports it


@contextmanager
def at_work(folder: Path, *, replaced: bool = False, needed: bool = True) -> Iterator[None]:
    """Hold `folder` for this command during the block; the processes of a torchrun hold it jointly, and blocks may
    nest.

    Args:
        replaced: whether the folder is replaced as a whole (`replacing_folder`), so that the lock is kept next to it.
        needed: False if there may be nothing left to write: then a read-only folder is no error.

    Raises Busy, without changes, if another command holds it, ValueError if another process of this command has a
    different WORLD_SIZE, or this one has no rank (`check_launch`), and CannotWrite if the folder is not writable."""
    check_launch()
    whole = Path(os.path.abspath(folder))
    parent, stem = (whole.parent, f".{whole.name:.100}{GATE}") if replaced else (whole, GATE)
    entry = str(parent.resolve() / f"{stem}-{rank_and_world()[0]}")
    with ExitStack() as undo:
        if entry in _held:
            _held[entry] = _held[entry][0], _held[entry][1] + 1
        else:
            try:
                made = make_folders(parent)
                undo.callback(lambda: remove_empty(parent, made))
                gate = _open_gate(parent / stem, seconds=GATE_SECONDS)
                try:
                    others, killed = _others(folder, parent, stem, Path(entry).name)
                    # The last process to leave removes what the first one created, or what a killed one left.
                    made = max([made, *(n for facts in others + killed if isinstance(n := facts.get("made"), int))])
                    _held[entry] = _enter(Path(entry), made), 1
                    if not others:
                        name = whole.name
                        remove_leftovers(parent, lambda path: path == name or not replaced, deep=False)
                finally:
                    _close_gate(gate, parent / stem, keep=entry in _held)
            except Busy as error:
                error.reported = _first_reports(parent / stem)
                raise
            except OSError as error:
                if needed or not whole.is_dir() or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise refused(folder, error, parent / stem) from error
        undo.callback(_leave, entry, parent / stem)
        yield


def refused(folder: Path, error: OSError, gate: Path) -> CannotWrite:
    """The error if a process cannot enter `folder`; `gate`: the `GATE` of the folder that its command holds."""
    refusal = CannotWrite(folder, error)
    refusal.reported = _first_reports(gate)
    return refusal


def _first_reports(gate: Path) -> bool:
    """Whether the first process of this machine has the same error, and reports it: usually all of them have, before
    they can communicate. If the first one has entered, only this one is rejected, and must report it."""
    if not (local := local_rank()):
        return False
    first, last = gate.with_name(f"{gate.name}-{rank_and_world()[0] - local}"), time.monotonic() + HEAD_START
    time.sleep(1.0)  # if it is rejected, too, it exits, and torchrun ends the others
    while not (_in_use(first, facts := _read(first)) and facts.get("job") == _job()):
        if time.monotonic() > last:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Run the block in one process at a time, of any command; others wait. `path` is a file to create for it, in an
    existing folder. On file systems without locks nobody waits. Raises OSError if it cannot be created."""
    handle = _open_gate(path)
    try:
        yield
    finally:
        with suppress(OSError):
            _close_gate(handle, path, keep=False)


def _leave(entry: str, gate: Path) -> None:
    if entry not in _held:  # a child forked in the block
        return
    handle, blocks = _held[entry]
    if blocks > 1:
        _held[entry] = handle, blocks - 1
        return
    del _held[entry]
    with suppress(OSError):
        os.unlink(entry)
    os.close(handle)
    with suppress(OSError, Busy):
        _close_gate(_open_gate(gate, seconds=GATE_SECONDS), gate, keep=False)


def make_folders(folder: Path) -> int:
    """Make a folder and its ancestors; returns how many were created."""
    new = sum(not path.exists() for path in (folder, *folder.parents))
    folder.mkdir(parents=True, exist_ok=True)
    return new


def remove_empty(folder: Path, made: int) -> None:
    """Remove a folder and its ancestors, `made` in total (see `make_folders`), as long as they are empty."""
    with suppress(OSError):
        for path in (folder, *folder.parents)[:made]:
            path.rmdir()


def _open_gate(path: Path, *, seconds: float = math.inf) -> int:
    """Serialises entering and leaving. Raises Busy if others hold it for `seconds`."""
    last = time.monotonic() + seconds
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            while not _locked(handle, wait=seconds == math.inf):
                if time.monotonic() > last:
                    raise Busy(
                        f"{path}: held for {seconds:.0f} s by a process that enters or leaves the folder, and seems to "
                        f"stand still; end it (fuser {shlex.quote(str(path))}), and try again"
                    )
                time.sleep(0.05)
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                return handle
        except FileNotFoundError:  # removed by a process that just left
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _locked(handle: int, *, wait: bool) -> bool:
    try:
        lock_file(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _close_gate(handle: int, path: Path, *, keep: bool) -> None:
    try:
        if not keep and not any(path.parent.glob(f"{path.name}-*")):
            os.unlink(path)
    finally:
        os.close(handle)


def _others(folder: Path, parent: Path, stem: str, entry: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The entries of the other processes of this command that hold the folder, and of those that were killed while
    holding it, whose entries are removed. Raises Busy if another command holds it."""
    others, killed = list[dict[str, Any]](), list[dict[str, Any]]()
    for path in sorted(parent.glob(f"{stem}-*")):
        facts = _read(path)
        if not _in_use(path, facts):
            killed.append(facts)
            with suppress(OSError):
                path.unlink()
        elif path.name == entry or facts.get("job") != _job():
            _check_world(folder, path, facts)
            raise Busy(_describe(folder, path, facts))
        else:
            others.append(facts)
    return others, killed


def _check_world(folder: Path, entry: Path, facts: Mapping[str, Any]) -> None:
    """Raise ValueError if the entry belongs to a process of the same rendezvous with a different world size."""
    *meeting, world = _job()
    if rank_and_world()[1] > 1 and isinstance(job := facts.get("job"), list) and job[:-1] == meeting:
        raise ValueError(
            f"{folder}: rank {rank_and_world()[0]} has WORLD_SIZE={world}, and rank {entry.name.rpartition('-')[2]} "
            f"{printable(str(job[-1]), most=20)}; start all processes with one torchrun, or with the same WORLD_SIZE"
        )


def _enter(entry: Path, made: int) -> int:
    facts = {**this_process(), "user": _user(), "command": _command(), "since": now(), "job": _job(), "made": made}
    handle = os.open(entry, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        lock_file(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.write(handle, entered := json.dumps(facts).encode()) < len(entered):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except BaseException:
        os.unlink(entry)
        os.close(handle)
        raise
    return handle


def _in_use(path: Path, facts: dict[str, Any]) -> bool:
    if str(path.resolve()) in _held:
        return True
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if lock_file(handle, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return bool(facts) if (lives := process_lives(facts)) is None else lives


def now() -> str:
    """Local time, such as "2026-01-31 23:59:59"."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def this_process() -> dict[str, Any]:
    """Identifies this process for `process_lives`."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started_tick": _started(os.getpid())}


def process_lives(facts: Mapping[str, Any]) -> bool | None:
    """Whether the process identified by `this_process` is alive; None for one on another machine."""
    if facts.get("host") != socket.gethostname() or not isinstance(pid := facts.get("pid"), int):
        return None
    return alive(pid) and facts.get("started_tick") in (None, _started(pid))


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            facts = json.loads(file.read(_MAX_BYTES))
        return facts if isinstance(facts, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _describe(folder: Path, entry: Path, facts: dict[str, Any]) -> str:
    names = ("pid", "host", "user", "command", "since")
    shown = {name: printable(str(facts.get(name, "?")), most=300) for name in names}
    return (
        f"{folder}: {shown['command']} is at work here (process {shown['pid']} on {shown['host']}, user "
        f"{shown['user']}, since {shown['since']}); wait until it ends, or choose another folder"
        + ("" if shown["host"] == socket.gethostname() else f" (if it is dead, remove {entry})")
    )


def _job() -> list[str]:
    """An id shared by the processes of one torchrun, and by no other command."""
    if rank_and_world()[1] > 1:
        return [os.environ.get(k, "") for k in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")]
    return [socket.gethostname(), str(os.getpid()), _started(os.getpid()) or ""]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _command() -> str:
    program = "fourm" if sys.argv[0].endswith("__main__.py") else os.path.basename(sys.argv[0]) or "python"
    return shlex.join([program, *sys.argv[1:]])[:300]


def _started(pid: int) -> str | None:
    """When a process of this host started, in ticks since boot; None if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _forget() -> None:
    """A forked child, such as a data-loader worker, must not hold its parent's locks."""
    for handle, _ in _held.values():
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)

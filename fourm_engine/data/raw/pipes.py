"""Copies tars printed by commands, such as `pipe:curl -sf https://…/shard-{00..09}.tar`, to a folder.

A pipe can only be read sequentially, but samples are read in any order, so the output is stored. Only commands in the
user's config are run, by the shell; a config stored by a run never runs any, and reads the copies (`spool_folder`).
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.names import compression, say, shown
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.root import PIPE, DataRoot, data_root, expand
from fourm_engine.data.raw.shard_scan import scan
from fourm_engine.device import local_rank
from fourm_engine.files import replacing_file
from fourm_engine.lock import at_work
from fourm_engine.storage.config import user_cache
from fourm_engine.storage.url import Folder, Url, scheme_of
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager

#: Maximum size of a command's output.
MAX_PIPE_BYTES = 1 << 36
_CHUNK = 1 << 20
#: More bytes than an empty tar has, all of which are zeros.
_EMPTY = 1 << 17
#: Seconds without output after which the command is reported as slow.
SILENCE = 30.0


def open_root(path: Folder | str, config: DataConfig, host: PluginManager) -> DataRoot:
    """Resolve `data.train` or `data.val` of `config`. The output of commands is copied below `data.tokens` or, if that
    is not local, below the user's cache. A package's source is looked up with `host`, but not yet opened. Raises
    ValueError, and CannotWrite."""
    text, tokens = str(path), config.tokens if isinstance(config.tokens, Path) else None
    if text.startswith(PIPE):
        return DataRoot(copied(text, spool_folder(text, tokens)), None)
    if scheme_of(path) is not None:
        return DataRoot(PluginRoot(text, host), None)
    return DataRoot(config.at(path), None) if isinstance(path, Url) else data_root(path)


def spool_folder(pipe: str, tokens: Path | None) -> Path:
    """The folder with the copies of a `pipe:`."""
    return (tokens or user_cache()) / "_pipes" / hashlib.sha256(pipe.encode()).hexdigest()[:16]


def copies(pipe: str, folder: Path) -> dict[Path, str]:
    """Tar -> the command that prints it. Raises ValueError for a pattern that cannot be read."""
    commands = [one.removeprefix(PIPE).strip() for one in expand(pipe)]
    return {folder / f"shard-{number:05d}.tar": command for number, command in enumerate(commands)}


def copied(pipe: str, folder: Path) -> Path:
    """Copy the output of the commands to `folder`. Existing tars are not copied again, so an interrupted call can be
    continued. Of the processes of a machine, only the first copies.

    Raises ValueError for a command that fails or does not print a complete tar, and CannotWrite."""
    wanted = copies(pipe, folder)
    if all(path.is_file() for path in wanted):
        return folder
    with at_work(folder):
        while local_rank() and not all(path.is_file() for path in wanted):
            time.sleep(0.5)
        members, size = 0, 0
        for path, command in wanted.items():
            if not path.is_file():
                members += _copy(command, path)
                size += path.stat().st_size
        if not local_rank():
            tars, contents = counted(len(wanted), "tar"), counted(members, "member")
            say(f"{shown(folder)}: copied {tars}, {size / 1e6:.1f} MB of {contents}, from {pipe}")
    return folder


def _copy(command: str, path: Path) -> int:
    """The number of members of the tar."""
    with replacing_file(path) as temporary:
        size, first = 0, b""
        with subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdout is not None
            try:
                with open(temporary, "wb") as file:
                    while chunk := _next(process.stdout.fileno(), command):
                        size += len(chunk)
                        first += chunk[: _EMPTY - len(first)]
                        if not _may_be_tar(first):  # and may be endless
                            raise ValueError(f"{PIPE}{command}: prints no tar, but {first[:16]!r}…")
                        if size > MAX_PIPE_BYTES:
                            raise ValueError(f"{PIPE}{command}: prints more than {MAX_PIPE_BYTES} bytes; split it")
                        file.write(chunk)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the shell and its children
                raise
        if process.returncode:
            status = f"{process.returncode} after {size} bytes"
            raise ValueError(f"{PIPE}{command}: failed with status {status}; run it yourself to see")
        try:
            return len(scan(temporary).samples)
        except ValueError as error:
            reason = str(error).removeprefix(f"{shown(temporary)}: ")
            raise ValueError(f"{PIPE}{command}: prints no whole tar: {reason}") from None


def _next(pipe: int, command: str) -> bytes:
    """The next output of a command, up to `_CHUNK` bytes; b"" at its end. Reports once if there is none for long."""
    if not select.select([pipe], [], [], SILENCE)[0]:
        say(f"{PIPE}{command}: has printed nothing for {SILENCE:.0f} s; still waiting (Ctrl-C ends it)")
    return os.read(pipe, _CHUNK)


def _may_be_tar(first: bytes) -> bool:
    """Whether a tar may begin like this: with a header or, if it is empty, zeros."""
    if len(first) < tarfile.BLOCKSIZE or not first.strip(b"\0"):
        return len(first) < _EMPTY
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(first[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape"))
    return compression(first) is not None  # reported once complete

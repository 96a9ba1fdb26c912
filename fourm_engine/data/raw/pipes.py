"""Tars that commands print, such as `pipe:curl -sf https://…/shard-{00..09}.tar`, copied to a folder.

A command is read once, from its beginning to its end, whereas samples are read in any order: what it prints is kept.
Only commands that the user's config names are run, by the shell; a config that a run has stored runs none, and reads
the copies (`spool_folder`).
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
from fourm_engine.storage.url import Folder, Url, scheme_of
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager

#: Of what one command prints.
MAX_PIPE_BYTES = 1 << 36
_CHUNK = 1 << 20
#: More bytes than an empty tar has, which are zeros.
_EMPTY = 1 << 17
#: Seconds without a byte after which a line says what is waited for.
SILENCE = 30.0


def open_root(path: Folder | str, config: DataConfig, host: PluginManager) -> DataRoot:
    """What `data.train` or `data.val` of `config` stands for; what commands print is copied below `data.tokens`, or
    where these are not here below the user's cache. What a package opens is found with `host`, and not yet opened.
    Raises ValueError, and CannotWrite."""
    text, tokens = str(path), config.tokens if isinstance(config.tokens, Path) else None
    if text.startswith(PIPE):
        return DataRoot(copied(text, spool_folder(text, tokens)), None)
    if scheme_of(path) is not None:
        return DataRoot(PluginRoot(text, host), None)
    return DataRoot(config.at(path), None) if isinstance(path, Url) else data_root(path)


def spool_folder(pipe: str, tokens: Path | None) -> Path:
    """Where the copies of what a `pipe:` prints are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fourm"
    return (tokens or cache) / "_pipes" / hashlib.sha256(pipe.encode()).hexdigest()[:16]


def copies(pipe: str, folder: Path) -> dict[Path, str]:
    """Tar -> the command that prints it. Raises ValueError for a pattern that cannot be read."""
    commands = [one.removeprefix(PIPE).strip() for one in expand(pipe)]
    return {folder / f"shard-{number:05d}.tar": command for number, command in enumerate(commands)}


def copied(pipe: str, folder: Path) -> Path:
    """`folder` with what the commands print; what is there is not copied again, so that a stopped call continues. Of
    the processes of a machine the first one copies.

    Raises ValueError for a command that fails or prints no whole tar, and CannotWrite."""
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
    """Members of the tar."""
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
                        if not _may_be_tar(first):  # and may have no end
                            raise ValueError(f"{PIPE}{command}: prints no tar, but {first[:16]!r}…")
                        if size > MAX_PIPE_BYTES:
                            raise ValueError(f"{PIPE}{command}: prints more than {MAX_PIPE_BYTES} bytes; split it")
                        file.write(chunk)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the shell, and what it has started
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
    """What a command prints next, up to `_CHUNK` bytes; b"" at its end. Tells once where it prints nothing for long."""
    if not select.select([pipe], [], [], SILENCE)[0]:
        say(f"{PIPE}{command}: has printed nothing for {SILENCE:.0f} s; still waiting (Ctrl-C ends it)")
    return os.read(pipe, _CHUNK)


def _may_be_tar(first: bytes) -> bool:
    """Whether a tar may begin like this: by a header, or, where it is empty, some zeros."""
    if len(first) < tarfile.BLOCKSIZE or not first.strip(b"\0"):
        return len(first) < _EMPTY
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(first[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape"))
    return compression(first) is not None  # named when it is whole

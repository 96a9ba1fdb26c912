"""Writes files and folders atomically: under a temporary name, then renamed.

A reader sees either the old content or the complete new one, whenever the writer is interrupted. An error of the file
system names the file that could not be written, in one line (`CannotWrite`). A killed writer leaves temporary files
whose names begin with a dot; the next run may remove them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fourm_plugins.errors import check_permitted

_PART = re.compile(r"^\.(?P<name>.+)\.(?P<pid>\d+)(-\d+)?\.(?P<kind>part|old)(\.\w+)?$", re.DOTALL)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_LONGEST_NAME = 255  # bytes, of all common file systems
_count = itertools.count()
_UMASK = os.umask(0)
os.umask(_UMASK)
#: Errors of file systems without locks.
_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
_REMEDIES = {
    errno.ENOSPC: "free space, or choose another folder",
    errno.EDQUOT: "free space, or choose another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another folder",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ELOOP: "a link there leads back to itself; remove it",
    errno.EISDIR: "a folder is there; move it away",
    errno.EEXIST: "a file is there; move it away",
}

#: Errors of a process that lacks resources to open any file.
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class CannotWrite(OSError):
    """A file or folder that could not be written; the message names it, the reason and the remedy."""

    reported = False  # whether another process reports it

    def __init__(self, path: Path, error: OSError) -> None:
        reason = error.strerror or str(error)
        if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
            reason = str(error.args[0][0][-1])  # the first error of copying a folder
        super().__init__(error.errno, reason, str(path))
        remedy = _REMEDIES.get(error.errno or 0)
        at = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
        if at is not None:
            reason, remedy = f"{at} is a file, not a folder", "move it away, or choose another folder"
        # os.path, since Path raises for names that are too long
        link = next((p for p in (path, *path.parents) if os.path.islink(p) and not os.path.exists(p)), None)
        if link is not None and error.errno in (errno.EEXIST, errno.ENOENT, errno.ELOOP):
            reason, remedy = f"{link} is a link to {os.readlink(link)}, which is not there", "mend or remove the link"
        self._given = path, error
        self._text = f"{path}: cannot be written: {reason}" + (f"; {remedy}" if remedy else "")

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[type[CannotWrite], tuple[Path, OSError]]:
        return type(self), self._given  # between processes, too, it is this error


def words_of(error: BaseException) -> str:
    """The text of an error; for one of the file system, the file, the reason and the remedy."""
    if type(error).__str__ is not OSError.__str__ or not isinstance(error, OSError) or not error.strerror:
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0, "").partition(", or choose")[0]
    file = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{file}{error.strerror}" + (f"; {remedy}" if remedy else "")


def is_shortage(error: BaseException) -> bool:
    """Whether an error does not concern the file, but means that the process cannot open any more files."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def check_shortage(error: BaseException) -> None:
    """Raise an error that would be mistaken for one of the file (`is_shortage`)."""
    if is_shortage(error):
        raise error


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turns errors of the file system in the block into CannotWrite, unless they concern a file elsewhere. Files below
    `temporary` are named by their final path below `path`."""
    try:
        yield
    except OSError as error:
        named = _named(error, path, temporary)
        if named is None or (isinstance(error, CannotWrite) and named == Path(str(error.filename))):
            raise
        raise CannotWrite(named, error) from error
    except Exception as error:
        # Identified by its module: importing safetensors would slow down every command.
        match = _OS_ERROR.search(str(error)) if type(error).__module__.startswith("safetensors") else None
        if match is None:
            raise
        number = int(match[1])
        raise CannotWrite(path, OSError(number, os.strerror(number))) from error


def _named(error: OSError, path: Path, temporary: Path | None) -> Path | None:
    """The file to name; None if the error concerns a file elsewhere."""
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return path
    at, top = Path(os.path.abspath(os.fsdecode(error.filename))), Path(os.path.abspath(path))
    if temporary is not None and at.is_relative_to(inside := Path(os.path.abspath(temporary))):
        return path / at.relative_to(inside)
    if at.is_relative_to(top):
        return path / at.relative_to(top)
    return path if top.is_relative_to(at) else None


def _beside(path: Path, kind: str) -> Path:
    """A name unique to this process in the folder of `path`, within the limit of file systems."""
    name, end = path.name, f".{os.getpid()}-{next(_count)}.{kind}"
    if len(os.fsencode(name)) + 1 + len(end) > _LONGEST_NAME >= len(os.fsencode(name)):
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}{end}")


def settle(path: Path) -> None:
    """Flush to disk, so that a full disk is noticed, and set the default permissions."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if not path.is_dir():
            os.fchmod(handle, os.fstat(handle).st_mode & 0o777 | (0o666 & ~_UMASK))
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the file system supports it."""
    with suppress(OSError):
        settle(folder)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which replaces `path` unless the block raises; then it is removed. Raises
    CannotWrite."""
    temporary = _beside(path, "part")
    with writing(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            settle(temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()
    sync_folder(path.parent)


def remove_leftovers(folder: Path, ours: Callable[[str], bool], *, deep: bool = True) -> None:
    """Remove what killed writers left in `folder` and, if `deep`, below. `ours`: whether this process writes the file
    or folder with a path below `folder`; others may be in use."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if not (match := _PART.match(name)):
                continue
            left, whole = Path(parent, name), Path(parent, match["name"])
            if alive(int(match["pid"])) or not ours(whole.relative_to(folder).as_posix()):
                continue
            if match["kind"] == "old" and not whole.exists():  # killed between the two renames
                os.rename(left, whole)
            elif left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        if not deep:
            return


def alive(pid: int) -> bool:
    """Whether a process of this host has this id."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def lock_file(handle: int, how: int) -> bool:
    """`flock`. Returns False if the file system has no such locks; raises BlockingIOError if another process holds it
    and `how` says not to wait."""
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Text is written as UTF-8. Raises CannotWrite."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Write files that belong together: none is replaced before all are on disk. Text is written as UTF-8. Raises
    CannotWrite."""
    with ExitStack() as files:
        for path, content in contents.items():
            temporary = files.enter_context(replacing_file(path))
            with writing(path, temporary):
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)
                settle(temporary)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty temporary folder, which replaces `folder` at the end of the block. If the block raises, `folder`
    is unchanged and nothing is left behind. Raises CannotWrite."""
    absolute = folder.absolute()
    temporary, old = _beside(absolute, "part"), _beside(absolute, "old")
    with writing(folder, temporary):
        if os.path.lexists(absolute) and not absolute.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is there, not a folder; move it away")
        absolute.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            for parent, _, files in os.walk(temporary):
                for path in (*(Path(parent, file) for file in files), Path(parent)):
                    settle(path)
            if absolute.exists():
                os.rename(absolute, old)  # a non-empty folder cannot be replaced by renaming
            os.rename(temporary, absolute)
        finally:
            if old.exists() and not absolute.exists():
                os.rename(old, absolute)
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    sync_folder(absolute.parent)


def read_object(path: Path, *, most: int, what: str, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes. Otherwise raises ValueError, which says `what` the file should
    contain, and the `remedy`."""
    check_permitted(path)
    try:
        if path.stat().st_size > most:
            raise ValueError(f"larger than {most} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: says {what}, and cannot be read: {error}; {remedy}") from None
    return document

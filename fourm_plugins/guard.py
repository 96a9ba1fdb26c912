"""Runs a plugin's code so that any failure is attributed to it, and leaves the process unchanged.

Code that ends Python (`os._exit`, `sys.exit`) or raises KeyboardInterrupt raises `EndsProcess`; code that kills the
process (a crash in native code, `abort`) leaves one line on stderr that names it, printed by a shell that waits
alongside; code that hangs is named after `NOTICE` seconds and stopped after `LIMIT`. Its output goes to stderr. Changes
that it makes to the process are reverted and reported.
"""

from __future__ import annotations

import contextlib
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

#: Seconds after which code that does not return is named, and those after which it is stopped.
NOTICE, LIMIT = 20.0, 300.0
#: Variables that may not even be added: they change the results of a run, or its device.
_PROTECTED = ("CUDA_", "FOURM_", "OMP_")
#: Prints its message if the pipe closes without a report.
_WITNESS = 'read -r word; [ "$word" = done ] || printf "%s\\n" "$0" >&2'
_lock = threading.RLock()


class EndsProcess(SystemExit):
    """Code of a plugin tried to end the process."""


class Stopped(SystemExit):
    """The user requested that the process end (SIGTERM, SIGHUP) while code of a plugin ran."""


@contextlib.contextmanager
def guarded(what: str, remedy: str, *, witness: bool = True) -> Iterator[list[str]]:
    """Run the body as code of `what`. Yields a list that is filled on exit with what the body changed in the process.
    `witness`: whether to report a dying process and hanging code on stderr. Raises whatever the body raises;
    `EndsProcess` for an attempt to end the process; KeyboardInterrupt only if it came from the user; and `Stopped` if a
    signal handler raised SystemExit meanwhile, even if the body caught it."""
    changed: list[str] = []
    with _lock, contextlib.ExitStack() as stack:
        if witness:
            unless = "unless it was killed, as the system does where memory is short"  # its shell cannot know
            stack.enter_context(_witnessed(f"fourm: error: the process ended inside {what}; {remedy}, {unless}"))
        state = _state()
        environment = dict(os.environ)
        hung = threading.Event()
        stack.enter_context(_exits_raise())
        raised = stack.enter_context(_signals())
        stack.enter_context(_timed(what, remedy, hung, told=witness))
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield changed
        except KeyboardInterrupt:
            if hung.is_set():
                raise EndsProcess(f"it hangs: not done after {LIMIT:g} s") from None
            if raised is None or any(isinstance(error, KeyboardInterrupt) for error in raised):
                if witness:
                    print(f"fourm: interrupted inside {what}", file=sys.stderr)
                raise
            raise EndsProcess("it raises KeyboardInterrupt, though nobody pressed Ctrl-C") from None
        except BaseException:
            _stop_if_asked(raised)
            raise
        else:
            _stop_if_asked(raised)
        finally:
            changed += _restore(state, environment)


@contextlib.contextmanager
def _witnessed(message: str) -> Iterator[None]:
    """Have a waiting shell report it if this process dies in the body."""
    try:
        shell = subprocess.Popen(["/bin/sh", "-c", _WITNESS, message], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    except OSError:  # no shell, or no resources for one: then a crash stays unexplained
        yield
        return
    try:
        yield
    finally:
        assert shell.stdin is not None
        with contextlib.suppress(OSError):
            shell.stdin.write(b"done\n")
            shell.stdin.close()
        shell.wait()


@contextlib.contextmanager
def _exits_raise() -> Iterator[None]:
    """Make `os._exit` and `os.abort` raise `EndsProcess` in this process; in forks they work as usual."""
    here, leave, abort = os.getpid(), os._exit, os.abort

    def refused(status: int) -> None:
        if os.getpid() != here:
            leave(status)
        raise EndsProcess(f"it ends the process with exit code {status}")

    def aborted() -> None:
        if os.getpid() != here:
            abort()
        raise EndsProcess("it aborts the process")

    os._exit, os.abort = refused, aborted  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit, os.abort = leave, abort


@contextlib.contextmanager
def _signals() -> Iterator[list[BaseException] | None]:
    """A list that receives what the handlers of Ctrl-C, SIGTERM and SIGHUP raise; None if it cannot be recorded."""
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield None
        return
    raised: list[BaseException] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before: dict[int, Any] = {number: handler for number, handler in handlers.items() if callable(handler)}

    def handle(number: int, frame: Any) -> None:
        try:
            before[number](number, frame)
        except BaseException as error:
            raised.append(error)
            raise

    for number in before:
        signal.signal(number, handle)
    try:
        yield raised
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_if_asked(raised: list[BaseException] | None) -> None:
    for error in raised or ():
        if isinstance(error, SystemExit):
            raise Stopped(error.code) from None


@contextlib.contextmanager
def _timed(what: str, remedy: str, hung: threading.Event, *, told: bool) -> Iterator[None]:
    """Name code that does not return and, in the main thread, stop it."""
    done = threading.Event()
    main = threading.current_thread() is threading.main_thread()

    def watch() -> None:
        if done.wait(NOTICE):
            return
        print(f"fourm: {what} still runs after {NOTICE:g} s; if it hangs, {remedy}", file=sys.stderr, flush=True)
        if not done.wait(LIMIT - NOTICE) and main:
            hung.set()
            # A system signal, which also interrupts sleeping and waiting calls.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    watcher = threading.Thread(target=watch, daemon=True)
    if told:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        if told:
            watcher.join()


# Process state that a plugin may not change

#: Name -> (previous value, getter, setter).
_State = dict[str, tuple[Any, Callable[[], Any], Callable[[Any], Any]]]


def _items() -> Iterator[tuple[str, Callable[[], Any], Callable[[Any], Any]]]:
    """(name, getter, setter) for the state of every loaded module."""
    yield "the working directory", os.getcwd, os.chdir
    yield "Python's random state", random.getstate, random.setstate
    yield "the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit
    yield "the locale", lambda: locale.setlocale(locale.LC_ALL), lambda x: locale.setlocale(locale.LC_ALL, x)
    yield "sys.stderr", lambda: sys.stderr, lambda x: setattr(sys, "stderr", x)
    yield "sys.excepthook", lambda: sys.excepthook, lambda x: setattr(sys, "excepthook", x)
    yield "the logging level", lambda: logging.root.level, logging.root.setLevel
    yield "logging", lambda: logging.root.manager.disable, logging.disable
    yield "the warnings filter", _blankets, _without_blankets
    if numpy := sys.modules.get("numpy"):
        yield "NumPy's random state", lambda: _Bits(numpy.random.get_state()), lambda x: numpy.random.set_state(x.state)
        yield "NumPy's handling of errors", numpy.geterr, lambda x: numpy.seterr(**x)
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_default_dtype"):
        yield "PyTorch's default dtype", torch.get_default_dtype, torch.set_default_dtype
        yield "PyTorch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled
        yield "PyTorch's random state", lambda: _Bits(torch.get_rng_state()), lambda x: torch.set_rng_state(x.state)


class _Bits:
    """A random state made comparable: an array, or a tuple with one."""

    def __init__(self, state: Any) -> None:
        self.state = state
        parts = state if isinstance(state, tuple) else (state,)
        self.key = [part.tolist() if hasattr(part, "tolist") else part for part in parts]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bits) and self.key == other.key


def _blankets() -> list[Any]:
    """The warning filters that match every warning."""
    return [f for f in warnings.filters if f[1] is None and f[2] is Warning and f[3] is None and not f[4]]


def _without_blankets(known: list[Any]) -> None:
    warnings.filters[:] = [f for f in warnings.filters if f not in _blankets() or f in known]  # type: ignore[index]
    if hasattr(warnings, "_filters_mutated"):  # forgets the decisions of the previous filters
        warnings._filters_mutated()


def _state() -> _State:
    state: _State = {}
    for name, read, put in _items():
        with contextlib.suppress(OSError):  # a deleted working directory
            state[name] = read(), read, put
    state["the order of sys.path"] = list(sys.path), lambda: sys.path, lambda x: None
    state["torch"] = "torch" in sys.modules, lambda: None, lambda x: None
    return state


def _restore(state: _State, environment: dict[str, str]) -> list[str]:
    """Undo the changes. Returns what was changed."""
    changed = []
    torch_before, *_ = state.pop("torch")
    path, *_ = state.pop("the order of sys.path")
    for name, (before, read, put) in state.items():
        try:
            same = read() == before
        except OSError:
            same = False
        if not same:
            changed.append(name)
            with contextlib.suppress(OSError, ValueError):
                put(before)
    if sys.path[: len(path)] != path:  # additions may not shadow existing entries
        changed.append("the order of sys.path")
        sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]
    torch: Any = sys.modules.get("torch")
    loaded = not torch_before and torch is not None and hasattr(torch, "get_default_dtype")
    if loaded and torch.get_default_dtype() != torch.float32:
        changed.append("PyTorch's default dtype")
        torch.set_default_dtype(torch.float32)
    for key in sorted(environment.keys() | os.environ.keys()):
        now, before = os.environ.get(key), environment.get(key)
        if now == before or (before is None and not key.startswith(_PROTECTED)):
            continue
        changed.append(f"the variable {key}")
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
    return changed

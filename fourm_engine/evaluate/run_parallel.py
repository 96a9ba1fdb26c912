"""Runs jobs in parallel, each in a process forked from this one, so that all share its memory.

In: functions without arguments that compute on the CPU. Out: their results, as they finish.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from fourm_engine.data.workers import end_with_parent

T = TypeVar("T")


def run_parallel(pieces: Sequence[Callable[[], T]], jobs: int) -> Iterator[tuple[int, T]]:
    """Yield (index, result) of each function as it finishes, `jobs` at a time; with 1, in this process and in order.
    Side effects of a function are not visible here. Raises the error of a function, or ValueError if its process was
    killed, and then terminates the others."""
    if jobs == 1 or len(pieces) < 2:
        yield from ((number, piece()) for number, piece in enumerate(pieces))
        return
    fork = multiprocessing.get_context("fork")
    waiting, running = list(enumerate(pieces)), dict[Connection, tuple[int, BaseProcess]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, piece = waiting.pop(0)
                here, there = fork.Pipe(duplex=False)
                process = fork.Process(target=_work, args=(piece, there), daemon=True)
                process.start()
                there.close()  # so that it closes with the process
                running[here] = number, process
            for pipe in [pipe for pipe in wait(list(running)) if isinstance(pipe, Connection)]:
                number, ending = running[pipe]
                result = _receive(pipe, ending, jobs)
                del running[pipe]
                yield number, result
    finally:
        for _, left in running.values():
            left.kill()
            left.join()


def _receive(pipe: Connection, process: BaseProcess, jobs: int) -> Any:
    """The result of a process that has ended, or is about to. Raises its error, or that it was killed."""
    try:
        result, error = pipe.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            why = "most likely for lack of memory; run fewer at a time (--jobs)"
            raise ValueError(f"one of {jobs} processes was killed, {why}") from None
        raise RuntimeError(f"a process was lost: exit code {process.exitcode}") from None
    process.join()
    if error is not None:
        raise error
    return result


def _work(piece: Callable[[], T], pipe: Connection) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives Ctrl-C as well, and ends this process
    torch.set_num_threads(1)  # a pool of threads does not survive the fork
    try:
        answer: tuple[T | None, Exception | None] = piece(), None
    except ValueError as error:  # an error for the user, whose class may not be picklable
        answer = None, ValueError(str(error))
    except Exception as error:
        answer = None, RuntimeError(f"{type(error).__name__}: {error}")
    pipe.send(answer)

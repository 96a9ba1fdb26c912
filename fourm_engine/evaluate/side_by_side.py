"""Pieces of work side by side, each in a process forked from this one, so that all share what is loaded.

In: functions without arguments, which compute on the CPU. Out: their results as they end.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from fourm_engine.data.workers import end_with_parent

T = TypeVar("T")


def side_by_side(pieces: Sequence[Callable[[], T]], jobs: int) -> Iterator[tuple[int, T]]:
    """(number of the piece, its result) as they end, `jobs` at a time; for 1 in this process, in order. What is changed
    by a piece beside its result is not seen here. Raises what a piece raises, ValueError if one was killed, and then
    ends the others."""
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
                there.close()  # so that it ends with the process
                running[here] = number, process
            for pipe in [pipe for pipe in wait(list(running)) if isinstance(pipe, Connection)]:
                number, ended = running[pipe]
                try:
                    result, error = pipe.recv()
                except EOFError:
                    ended.join()
                    if ended.exitcode == -signal.SIGKILL:
                        why = "most likely for lack of memory; run fewer at a time (--jobs)"
                        raise ValueError(f"one of {jobs} processes was killed, {why}") from None
                    raise RuntimeError(f"a process was lost: exit code {ended.exitcode}") from None
                del running[pipe]
                ended.join()
                if error is not None:
                    raise error
                yield number, result
    finally:
        for _, left in running.values():
            left.kill()
            left.join()


def _work(piece: Callable[[], T], pipe: Connection) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends this process
    torch.set_num_threads(1)  # a pool of threads does not survive the fork
    try:
        answer: tuple[T | None, Exception | None] = piece(), None
    except ValueError as error:  # for the user; its class may not be one that can be sent
        answer = None, ValueError(str(error))
    except Exception as error:
        answer = None, RuntimeError(f"{type(error).__name__}: {error}")
    pipe.send(answer)

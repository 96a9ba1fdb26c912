"""Watchdog: ends this process in bounded time when another one is lost or there is no progress, and names the cause.

In: a call for each action of a process. Out, in `<run>/processes/`: during a run of several processes, heartbeats that
a thread writes every few seconds and that show which process is behind; after a hang, the Python stacks of each process
(`rank-00000.stack`).
"""

from __future__ import annotations

import faulthandler
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from fourm_engine.lock import GATE, at_work, now, refused, this_process
from fourm_engine.train.distributed import OtherProcess, RankMismatch, describe, gather_json
from fourm_engine.train.heartbeat import Heartbeats, is_dead
from fourm_engine.train.rendezvous import LATE, NotMet
from fourm_engine.train.run_folder import check_run_folder
from fourm_engine.train.stopping import Stopped

FOLDER = "processes"
#: Exit code (EX_TEMPFAIL) after a hang or a lost process: the same command resumes from the last checkpoint.
AGAIN = 75
#: Maximum seconds between two heartbeats.
INTERVAL = 5.0
#: Seconds that the other processes have to notice why one ended.
GRACE = 3.0
#: A broken connection is attributed to a process without a heartbeat for this many seconds.
SILENT = 20.0
#: Seconds within which what one process writes appears to the others: network file systems cache a folder's entries for
#: up to a minute.
SEEN = 90.0
STARTS = "starts"
_CONNECTION = re.compile(r"gloo|nccl|connection|broken pipe|timed? ?out", re.IGNORECASE)
_active: Watchdog | None = None
_AGAIN = "checkpoints so far are intact; run the same command again to continue"


class Watchdog:
    """Watches the processes of a run. `seconds`: all processes end after this long without progress; None: they wait
    forever for a stalled process, but still notice one that has ended. `step()`: finished steps of this process.
    `brief`: of processes that fail with the same error only the first reports it; the others set `reported` on
    theirs."""

    def __init__(self, run: Path, seconds: float | None, step: Callable[[], int], *, brief: bool = False) -> None:
        self.heartbeats, self.seconds, self.step, self.brief = Heartbeats(run / FOLDER), seconds, step, brief
        self.rank, self.world = self.heartbeats.rank, self.heartbeats.world
        self._progress, self._activity, self._bounded = 0, STARTS, False
        self._over = threading.Event()
        self._ending = threading.Lock()  # one thread ends the process

    @property
    def _interval(self) -> float:
        return min(INTERVAL, self.seconds / 10) if self.seconds else INTERVAL

    def report_progress(self, activity: str = "", *, bounded: bool = True) -> None:
        """Report progress; call at points that all processes pass equally often. `activity`: the action that follows;
        `bounded`: whether the watchdog limits its duration."""
        self._progress, self._activity, self._bounded = self._progress + 1, activity or self._activity, bounded

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch during the block. If it fails because another process is lost, one process reports it in a line, and
        all exit with `AGAIN`."""
        if self.world == 1 and self.seconds is None:
            yield
            return
        try:
            self.heartbeats.start(self._facts())
            self._stacks = open(self.heartbeats.folder / f"rank-{self.rank:05d}.stack", "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            self.heartbeats.clean()
            raise refused(self.heartbeats.folder, error, self.heartbeats.folder.parent / GATE) from error
        thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        thread.start()
        end = ""
        try:
            yield
        except BaseException as error:
            end = "" if isinstance(error, Stopped) else describe(error)
            if self.world > 1 and isinstance(error, (RuntimeError, NotMet)):
                self._exit_if_lost(error)
            if isinstance(error, (ValueError, OSError)) and self._reported_by_rank_0(error, end):
                error.reported = True  # type: ignore[union-attr]
            raise
        finally:
            self._over.set()
            thread.join()
            faulthandler.cancel_dump_traceback_later()
            self._stacks.close()
            self._beat(end)
            self.heartbeats.clean(end)

    def check_shared(self) -> None:
        """Check that all processes see the same folder; each must call it, once they are connected. Raises RankMismatch
        in all of them: the checkpoints of such a run could never be completed."""
        last = time.monotonic() + SEEN
        while self.rank > 0 and not (there := self.heartbeats.sees(0)) and time.monotonic() < last:
            time.sleep(0.05)
        seen = gather_json([self.rank == 0 or there, socket.gethostname()])
        if blind := [(number, host) for number, (sees, host) in enumerate(seen) if not sees]:
            (number, host), run = blind[0], os.path.abspath(self.heartbeats.folder.parent)
            raise RankMismatch(
                f"rank {number} on {host} does not see what rank 0 on {seen[0][1]} writes to {run}; use a folder on a "
                f"file system that all machines share"
            )

    def _beat(self, end: str | None, because: str = "") -> None:
        self.heartbeats.beat(self._facts(), end, because)

    def _facts(self) -> dict[str, Any]:
        return this_process() | {"progress": self._progress, "step": self.step(), "activity": self._activity}

    def _lost(self, silent: float = float("inf")) -> dict[int, str]:
        """Rank -> description, for processes that ended by themselves or had no heartbeat for `silent` seconds."""
        lost = dict[int, str]()
        for number, facts, age in self.heartbeats.others():
            if facts is None:
                if age >= max(silent, LATE):
                    lost[number] = f"rank {number} is lost: no sign of life since the start, {age:.0f} s ago"
                continue
            who = f"rank {number} (process {facts['pid']} on {facts['host']})"
            if facts["end"] is not None:
                if facts["end"] and not facts["because"]:
                    lost[number] = f"rank {number} ended: {facts['end']}"
            elif is_dead(facts):
                lost[number] = f"{who} is lost: it was killed; by the system, if memory was short"
            elif age >= silent:
                lost[number] = f"{who} is lost: no sign of life for {age:.0f} s"
        return lost

    def _exit_if_lost(self, error: BaseException) -> None:
        """Exit if `error` was caused by the loss of another process."""
        self._bounded = False
        broken = _CONNECTION.search(str(error)) is not None
        last = time.monotonic() + GRACE + (SILENT + INTERVAL if broken else 0)
        while time.monotonic() < last:
            if lost := self._lost(SILENT if broken else float("inf")):
                self._exit(lost)
            if broken and (
                why := [facts["because"] for _, facts, _ in self.heartbeats.others() if facts and facts["because"]]
            ):
                self._exit({}, because=why[0])
            time.sleep(0.05)

    def _reported_by_rank_0(self, error: BaseException, end: str) -> bool:
        """Whether rank 0 ends with the same error, or both because of a third process: a hundred processes should not
        all report it."""
        last = time.monotonic() + GRACE
        while self.brief and self.rank > 0 and time.monotonic() < last:
            first = next(facts for number, facts, _ in self.heartbeats.others() if number == 0)
            if first is not None and first["end"] is not None:
                return first["end"] == end or (isinstance(error, OtherProcess) and first["end"] != "")
            time.sleep(0.05)
        return False

    def _exit(self, lost: dict[int, str], *, because: str = "") -> NoReturn:
        """End this process, which may wait forever. The lowest remaining rank reports the reason."""
        with self._ending:
            words = because or "; ".join(lost.values())
            self._beat(f"lost: {words}", words)
            if not because and self.rank == min(set(range(self.world)) - lost.keys()):
                print(f"{words}; {_AGAIN}", file=sys.stderr, flush=True)
            time.sleep(GRACE)
            self.heartbeats.clean()
            _exit_now()

    def _run(self) -> None:
        """The body of the thread."""
        seen, quiet, gone = -1, 0.0, 0.0
        while not self._over.wait(self._interval):
            # Count ticks rather than time: a suspended process must not appear to have been quiet for long.
            self.heartbeats.clock += self._interval
            still, seen = seen == self._progress, self._progress
            quiet = quiet + self._interval if still and self._bounded else 0.0
            self._beat(None)
            silent, grace = float("inf"), GRACE  # until the main thread notices
            if self.seconds and not self._bounded:
                # Unbounded actions still need a living process: a suspended one writes no heartbeats. One tick longer,
                # since if all were suspended, the first to resume sees the others silent.
                silent, grace = max(SILENT, self.seconds), GRACE + self._interval
            gone = gone + self._interval if still and self._lost(silent) else 0.0
            if gone > grace and (lost := self._lost(silent)):
                self._exit(lost)
            if self.seconds:
                if quiet >= self.seconds:
                    self._report_hang(quiet)
                # Needs no Python lock, which the hanging code may hold.
                faulthandler.dump_traceback_later(self.seconds + 2 * self._interval, file=self._stacks)
            else:
                faulthandler.cancel_dump_traceback_later()  # of an outer block

    def _report_hang(self, quiet: float) -> NoReturn:
        with self._ending:
            faulthandler.cancel_dump_traceback_later()
            facts = self._facts()
            self._stacks.write(f"{now()} rank {self.rank}, {_where(facts)}: no progress for {quiet:.0f} s\n")
            self._stacks.flush()
            faulthandler.dump_traceback(self._stacks)
            everyone, silent = {self.rank: facts}, set()
            for number, other, age in self.heartbeats.others():
                if other is not None:
                    everyone[number] = other
                    if age > 0.75 * quiet or is_dead(other):
                        silent.add(number)
            least = min(other["progress"] for other in everyone.values())
            behind = sorted(silent or {number for number, other in everyone.items() if other["progress"] == least})
            where = _who_is_behind(everyone, behind, silent)
            words = f"no progress for {quiet:.0f} s: {where}; stacks in {self.heartbeats.folder}"
            self._beat(f"hang: {words}", words)
            if self.rank == min(everyone.keys() - silent):
                print(f"{words}; {_AGAIN}", file=sys.stderr, flush=True)
            time.sleep(4 * self._interval)  # the others write their stacks
            _exit_now()


@contextmanager
def watched(
    run: Path, seconds: float | None, step: Callable[[], int] = lambda: 0, *, brief: bool = False
) -> Iterator[Watchdog]:
    """Watch this process as one of `run`, from the outermost of nested blocks on; inner ones replace `seconds` and
    `step` (see `Watchdog`). Enter it before the first collective, so that no wait is unwatched. Raises ValueError if
    the folder cannot be a run's."""
    global _active
    check_run_folder(run)
    if _active is None:
        _active = Watchdog(run, seconds, step, brief=brief)
        try:
            with _active.watching():
                yield _active
        finally:
            _active = None
        return
    watch, outer = _active, (_active.seconds, _active.step)
    watch.seconds, watch.step = seconds, step
    watch.report_progress(STARTS, bounded=False)
    try:
        yield watch
    finally:
        watch.seconds, watch.step = outer
        watch.report_progress("is between runs", bounded=False)


@contextmanager
def exclusive_run(run: Path, seconds: float | None) -> Iterator[None]:
    """Lock the folder `run` for this command (`at_work`) and watch this process, with `brief`, during the block."""
    with at_work(run), watched(run, seconds, brief=True):
        yield


def _who_is_behind(everyone: dict[int, dict[str, Any]], behind: list[int], silent: set[int]) -> str:
    where = _where(everyone[behind[0]])
    if len(behind) == len(everyone):
        return where if len(everyone) == 1 else f"all ranks are equally far, at {where}"
    ranks = f"rank {behind[0]} is" if len(behind) == 1 else f"ranks {', '.join(map(str, behind))} are"
    return f"{ranks} behind, at {where}{', without a sign of life' if silent else ''}"


def _where(facts: dict[str, Any]) -> str:
    return f"step {facts['step'] + 1}, {facts['activity']} (process {facts['pid']} on {facts['host']})"


def _exit_now() -> NoReturn:
    """Exit without unwinding: a thread or a library may be waiting forever."""
    sys.stdout.flush()
    os._exit(AGAIN)

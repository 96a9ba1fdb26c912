"""Heartbeats: files in which each process of a run publishes its state, readable even while it hangs.

In: this process's state, at every beat. Out: `rank-00000.json` per process, in a folder that exists during the run; the
state of the other processes, and the seconds since the last beat of each.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fourm_engine.device import rank_and_world
from fourm_engine.lock import make_folders, process_lives, remove_empty, this_process


class Heartbeats:
    """Writes this process's heartbeat to `folder` and reads those of the others. `clock` counts seconds of watching and
    is advanced by the watchdog's thread: clocks differ between machines and file systems, and time during which this
    process was suspended must not count as silence of the others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, 0.0
        self.rank, self.world = rank_and_world()
        self._made = self._beats = 0  # folders created; heartbeats written
        self._beating, self._ended = threading.Lock(), False
        #: Rank -> its last heartbeat, and the `clock` at which it was first seen.
        self._seen: dict[int, tuple[dict[str, Any], float]] = {}

    def start(self, facts: dict[str, Any]) -> None:
        """Create the folder and write the first heartbeat. Raises OSError."""
        self._made = make_folders(self.folder)
        for number in range(self.world):
            last = self._read(number)
            if last is not None and process_lives(last) is not True:
                self._seen[number] = last, -math.inf  # left by an earlier start, unless it changes
        if self.world > 1:
            with self._beating:
                self._write(facts, None, "")

    def beat(self, facts: dict[str, Any], end: str | None = None, because: str = "") -> None:
        """Write a heartbeat. `end`: why this process ends, "" if normally; `because`: the failure of another process
        that caused it. Once `end` is written, later heartbeats without it are ignored, from any thread."""
        if self.world == 1:
            return
        with self._beating:
            self._ended = self._ended or end is not None
            if self._ended and end is None:
                return
            try:
                self._write(facts, end, because)
            except OSError:  # a full disk must not end the run
                with suppress(OSError):
                    os.utime(self._path(self.rank))

    def _write(self, facts: dict[str, Any], end: str | None, because: str) -> None:
        path, self._beats = self._path(self.rank), self._beats + 1
        facts = this_process() | facts | {"beat": self._beats, "made": self._made, "end": end, "because": because}
        path.parent.mkdir(exist_ok=True)  # the last process to end before this one started removed it
        path.with_suffix(".part").write_text(json.dumps(facts))
        os.replace(path.with_suffix(".part"), path)

    def others(self) -> Iterator[tuple[int, dict[str, Any] | None, float]]:
        """(rank, facts, seconds since its last heartbeat) of every other process; facts are None before its first."""
        for number in range(self.world):
            if number == self.rank:
                continue
            facts, since = self._seen.get(number, ({}, -math.inf))
            if (last := self._read(number)) is not None and last != facts:
                facts, since = self._seen[number] = last, self.clock
            yield (number, None, self.clock) if since == -math.inf else (number, facts, self.clock - since)

    def sees(self, number: int) -> bool:
        """Whether a heartbeat of this start of another process has appeared in the folder."""
        earlier, since = self._seen.get(number, ({}, -math.inf))
        return (last := self._read(number)) is not None and (since != -math.inf or last != earlier)

    def clean(self, end: str = "") -> None:
        """Remove everything but stacks if this is the last process to end, unless there was a hang. `end`: why this
        process ends, "" if normally."""
        with suppress(OSError):
            last = [facts for _, facts, _ in self.others()]
            if end and None in last:  # a process that starts later must be able to read why
                return
            others = [facts for facts in last if facts is not None]
            if all(facts["end"] is not None or is_dead(facts) for facts in others):
                for path in self.folder.iterdir():
                    if path.suffix != ".stack" or not path.stat().st_size:
                        path.unlink(missing_ok=True)
                remove_empty(self.folder, max([1, self._made, *(facts["made"] for facts in others)]))

    def _path(self, number: int) -> Path:
        return self.folder / f"rank-{number:05d}.json"

    def _read(self, number: int) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            with open(self._path(number), encoding="utf-8") as file:
                facts, touched = json.load(file), os.fstat(file.fileno()).st_mtime_ns
            return {**facts, "touched": touched} if isinstance(facts, dict) else None
        return None


def is_dead(facts: dict[str, Any]) -> bool:
    """Whether the process is of this machine and has ended, even if its parent has not reaped it."""
    if (lives := process_lives(facts)) is not True:
        return lives is False
    with suppress(OSError, IndexError):
        return Path(f"/proc/{facts['pid']}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False

"""Signs of life: what each process of a run tells the others, in files, which can be read when it stands still.

In: facts of this process, again and again. Out, in a folder during the run: `rank-00000.json` for each of several
processes; the facts of the others, and for how long each has been silent.
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


class Signs:
    """Those of this process, one of those that torchrun started, and of the others, in `folder`. `clock`: seconds that
    this process has been watching, to be advanced by whoever watches: the clocks of machines and of file systems
    differ, and the time that this process is itself suspended says nothing of others."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, 0.0
        self.rank, self.world = rank_and_world()
        self._made = self._given = 0  # folders that were not there; signs
        self._giving, self._ended = threading.Lock(), False
        #: Rank -> its last sign of life, and when that was first seen.
        self._seen: dict[int, tuple[dict[str, Any], float]] = {}

    def begin(self, facts: dict[str, Any]) -> None:
        """Make the folder, and give the first sign of life. The others may be earlier or later, or never come. Raises
        OSError."""
        self._made = make_folders(self.folder)
        for number in range(self.world):
            sign = self._read(number)
            if sign is not None and process_lives(sign) is not True:
                self._seen[number] = sign, -math.inf  # of an earlier start, unless it changes
        if self.world > 1:
            with self._giving:
                self._write(facts, None, "")

    def give(self, facts: dict[str, Any], end: str | None = None, because: str = "") -> None:
        """Give a sign of life. `end`: why this process ends, "" if nothing is wrong; `because`: of which other one. No
        sign without an end follows one that has it, whichever thread gives it."""
        if self.world == 1:
            return
        with self._giving:
            self._ended = self._ended or end is not None
            if self._ended and end is None:
                return
            try:
                self._write(facts, end, because)
            except OSError:  # a full disk must not end a run that needs none of it
                with suppress(OSError):
                    os.utime(self._path(self.rank))

    def _write(self, facts: dict[str, Any], end: str | None, because: str) -> None:
        path, self._given = self._path(self.rank), self._given + 1
        facts = this_process() | facts | {"sign": self._given, "made": self._made, "end": end, "because": because}
        path.parent.mkdir(exist_ok=True)  # one that left as the last of those that had come removes it
        path.with_suffix(".part").write_text(json.dumps(facts))
        os.replace(path.with_suffix(".part"), path)

    def others(self) -> Iterator[tuple[int, dict[str, Any] | None, float]]:
        """(rank, facts, seconds without a new sign) of each; no facts: no sign since this process began."""
        for number in range(self.world):
            if number == self.rank:
                continue
            facts, since = self._seen.get(number, ({}, -math.inf))
            if (sign := self._read(number)) is not None and sign != facts:
                facts, since = self._seen[number] = sign, self.clock
            yield (number, None, self.clock) if since == -math.inf else (number, facts, self.clock - since)

    def clean(self, end: str = "") -> None:
        """The last process to end removes everything but stacks, unless there was a hang. `end`: why this one ends, ""
        if nothing is wrong."""
        with suppress(OSError):
            signs = [facts for _, facts, _ in self.others()]
            if end and None in signs:  # one that is yet to come must read why
                return
            others = [facts for facts in signs if facts is not None]
            if all(facts["end"] is not None or gone(facts) for facts in others):
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


def gone(facts: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended, even if its parent does not know yet."""
    if (lives := process_lives(facts)) is not True:
        return lives is False
    with suppress(OSError, IndexError):
        return Path(f"/proc/{facts['pid']}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False

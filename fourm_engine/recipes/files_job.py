"""Work through many samples, into files of a folder: `fourm generate` and `fourm predict` of folders and data sets.

In: `SampleInputs`, and a subclass that says what is computed of a batch and what is written of a sample. Out: files
below `out`, and a record (`generated_record.py`).

Worker processes read and decode inputs ahead; one process computes in batches; a thread writes. Only the memory for
names grows with the number of samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fourm_engine.data.background import Background
from fourm_engine.data.bad_files import BadFile, BadFiles
from fourm_engine.data.workers import ahead, preparing_workers
from fourm_engine.device import local_device, rank_and_world
from fourm_engine.lock import at_work
from fourm_engine.recipes.generate_reading import Read, Reader
from fourm_engine.recipes.generated_record import FOLDER, Record
from fourm_engine.recipes.progress import PrintFn, Progress, first_only, print_line
from fourm_engine.recipes.sample_inputs import SampleInputs
from fourm_engine.train.distributed import FILES, SETTINGS, check_same, sum_numbers
from fourm_engine.train.rendezvous import join
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality

T = TypeVar("T")
#: Number of names of samples that processes compare.
SOME_NAMES = 16
#: Timeout of a process that waits for the others at the end.
_LONG = timedelta(days=30)
#: How long processes wait for each other to start.
_MEETING = timedelta(minutes=10)


@dataclass
class FilesReport:
    """The numbers of samples that one process computed, that existed, and that were unusable, with the first reason."""

    made: int = 0
    kept: int = 0
    bad: int = 0
    first: str = ""

    def summary(self, out: Path, what: str) -> str:
        """A one-line summary of what a process did."""
        words = [f"{counted(self.made, 'sample')} of {what} made"]
        words += [f"{self.kept} were there"] if self.kept else []
        words += [f"{self.bad} could not be used"] if self.bad else []
        return f"{out}: {', '.join(words)}"


@dataclass(kw_only=True)
class FilesJob(ABC):
    """One process's share of the samples, executed by `run`."""

    inputs: SampleInputs
    #: Name as given -> modality that reads it.
    shown_as: dict[str, Modality]
    out: Path
    batch_size: int = 16
    part: int = 0
    parts: int = 1
    workers: int | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`make_settings`, computed once: it reads all weights."""
        return self.make_settings()

    @abstractmethod
    def make_settings(self) -> dict[str, Any]:
        """Everything besides the inputs that decides the results, as JSON: name of an option -> value."""

    @abstractmethod
    def folders(self) -> list[Path]:
        """The folders of the results. Raises ValueError if two kinds of them would share one."""

    @abstractmethod
    def reader(self) -> Reader: ...

    @abstractmethod
    def compute(self, batch: Mapping[str, Read]) -> Mapping[str, Any]:
        """The results of a batch of samples, by name."""

    @abstractmethod
    def write(self, name: str, read: Read, result: Any) -> Mapping[str, Any]:
        """Write the files of a sample, each atomically; returns the facts to record of it."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether all files of a recorded sample are there."""

    @property
    def samples_per_batch(self) -> int:
        """Samples that are computed together, whichever of them exist already."""
        return self.batch_size

    def run(self, *, print_fn: PrintFn = print_line) -> FilesReport:
        """Raises ValueError if, by the record, `out` was generated with other settings; CannotWrite."""
        folders = self.folders()
        record = Record(self.out, self.settings, folders, part=self.part, parts=self.parts)
        report, bad, total = FilesReport(), BadFiles("skip"), sum(map(len, self._blocks()))
        workers = preparing_workers(total) if self.workers is None else self.workers
        progress, tasks = Progress(str(self.out), print_fn), self._tasks(record, report)

        def write(batch: tuple[Mapping[str, Read], Mapping[str, Any]]) -> None:
            for name, one in batch[0].items():
                facts = self.write(name, one, batch[1][name])
                record.add(name, stamp=one.stamp, digest=one.digest, facts=facts)

        with Background() as thread:
            for read in ahead(self.reader(), tasks, workers=workers, setting="--workers"):
                usable = dict[str, Read]()
                for name, one in read.items():
                    if isinstance(one, BadFile):
                        bad.add(name, one)
                        report.bad, report.first = report.bad + 1, report.first or str(one)
                    elif record.input_is(name, one.digest) and self.exists(name):  # touched but unchanged
                        record.add(name, stamp=one.stamp, digest=one.digest, facts=record.facts(name) or {})
                        report.kept += 1
                    else:
                        usable[name] = one
                if usable:
                    thread.later(write, (usable, self.compute(usable)))
                    report.made += len(usable)
                progress(report.made + report.kept + report.bad, total)
            thread.finish()
        return report

    def _blocks(self) -> Iterator[range]:
        """Indices of this part's samples that run together, independent of what already exists."""
        size, total = self.samples_per_batch, len(self.inputs.names)
        for number in range(self.part, -(-total // size), self.parts):
            yield range(number * size, min(total, (number + 1) * size))

    def _tasks(self, record: Record, report: FilesReport) -> Iterator[Sequence[str]]:
        """Names of the samples of a block that are still missing."""
        for block in self._blocks():
            names = [self.inputs.names[i] for i in block]
            missing = [n for n in names if not (record.stamp_is(n, self.inputs.stamp(n)) and self.exists(n))]
            report.kept += len(names) - len(missing)
            if missing:
                yield missing


@dataclass
class Processes:
    """The processes of torchrun, or of --share, that share the work; this is `part` (from 0) of `parts`, on `device`.
    Raises ValueError if a process of torchrun has ended."""

    part: int = 0
    parts: int = 1
    device: str | None = None

    def run(self, job: FilesJob, what: str, print_fn: PrintFn) -> tuple[FilesReport, int]:
        """Run this process's part of a job of `what`; also returns the number of unusable samples of all processes, for
        `fail_if_bad`."""
        self.check_same(job)
        report = job.run(print_fn=first_only(print_fn))
        print_fn(report.summary(job.out, what))
        return report, self.total(report.bad)

    def total(self, number: int) -> int:
        """The sum over all processes. None exits before all are done, or torchrun would stop the others."""
        return round(self._exchange(lambda: sum_numbers([float(number)])[0]))

    def check_same(self, job: FilesJob) -> None:
        """Raise ValueError if another process was asked for something else, or sees other samples."""
        self._exchange(lambda: check_same(job.settings | {"--batch-size": job.batch_size}, SETTINGS))
        names = job.inputs.names
        some = names[:: -(-len(names) // SOME_NAMES) or 1]
        facts = {"number of samples": len(names), "names of samples": list(some)}
        self._exchange(lambda: check_same(facts, FILES))

    def _exchange(self, collective: Callable[[], T]) -> T:
        try:
            return collective()
        except RuntimeError as error:  # gloo's, of a broken connection
            raise ValueError(
                "another process of this command has ended; results that are finished are kept: run the same command "
                "again to continue"
            ) from error


@contextmanager
def sharing(out: Path, share: tuple[int, int] | None, device: str | None) -> Iterator[Processes]:
    """Work at the share (k, n) of the samples whose results go to `out`, or at that of this process of torchrun, on
    `device` or the process's own. Raises ValueError for a share that is none."""
    rank, world = rank_and_world()
    if share is not None and world > 1:
        raise ValueError("--share: the processes of torchrun share the samples; leave it out")
    part, parts = share or (rank, world)
    if not 0 <= part < parts:
        raise ValueError(f"--share {part}/{parts}: the first of {parts} is 0/{parts}, the last {parts - 1}/{parts}")
    with at_work(out / FOLDER / f"part-{part}-of-{parts}"), joined():
        yield Processes(part, parts, device or (str(local_device()) if world > 1 else None))


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of torchrun, if there are several. Raises ValueError if they do not meet."""
    import torch.distributed as dist

    joins = rank_and_world()[1] > 1 and not dist.is_initialized()
    if joins:
        join("gloo", meeting=_MEETING, timeout=_LONG)
    try:
        yield
    finally:
        if joins:
            dist.destroy_process_group()


def fail_if_bad(bad: int, first: str, out: Path) -> None:
    """Raise ValueError if samples of any process could not be used."""
    if bad:
        example = f", such as {first}" if first else ""
        raise ValueError(f"{counted(bad, 'sample')} could not be used{example}; all others are in {out}")

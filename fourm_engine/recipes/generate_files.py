"""Generate for many samples, into a data set: `fourm generate` with folders, a data set or a file of lines.

In: `SampleInputs`, a model. Out: `out/<source of the target>/<sample>.<extension>`, laid out as in docs/data.md, and a
record (`generated_record.py`). If samples are reduced, their spread is in
`out/.generated/spread/<source>/<sample>.npy`, where no reader of the data set takes it for a modality.

Worker processes read and decode inputs ahead; one process encodes, samples and decodes in batches; a thread writes.
Only the memory for names grows with the number of samples.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.background import Background
from fourm_engine.data.bad_files import BadFile, BadFiles
from fourm_engine.data.views import ViewDrawer
from fourm_engine.data.workers import ahead, preparing_workers
from fourm_engine.files import write_atomically
from fourm_engine.generate.combine import combine
from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.input_types import Ids
from fourm_engine.generate.regions import Regions, with_regions
from fourm_engine.generate.result import Results
from fourm_engine.model import FourM
from fourm_engine.recipes.generate_reading import Read, Reader
from fourm_engine.recipes.generated_record import FOLDER, Record, digest_of_model
from fourm_engine.recipes.progress import PrintFn, Progress, print_line
from fourm_engine.recipes.sample_inputs import SampleInputs
from fourm_plugins import calls
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.reductions import How
from fourm_plugins.tokenizer import TextTokenizer


@dataclass
class FilesReport:
    """The numbers of samples that one process generated, that existed, and that were unusable, with the first
    reason."""

    made: int = 0
    kept: int = 0
    bad: int = 0
    first: str = ""


class Writer:
    """Writes `samples` results of each sample: each file atomically, then its line in the record."""

    def __init__(self, out: Path, record: Record, samples: int) -> None:
        self.out, self.record, self.samples = out, record, samples

    def write(self, batch: Mapping[str, tuple[Read, Sequence[Results]]]) -> None:
        for name, (read, answers) in batch.items():
            for stem, results in zip(stems(name, self.samples), answers, strict=True):
                for generated in results.values():
                    spec = generated.modality.spec
                    if isinstance(generated.spread, np.ndarray):  # before the value, which marks a finished sample
                        np.save(buffer := io.BytesIO(), generated.spread.astype(np.float32), allow_pickle=False)
                        write_atomically(self.out / FOLDER / "spread" / spec.source / f"{stem}.npy", buffer.getvalue())
                    self._files(spec.source, stem, calls.write(generated.modality, generated.value), spec.extensions)
                for source, files in read.files.items():
                    self._files(source, stem, files, ())
            self.record.add(name, seed=read.seed, stamp=read.stamp, digest=read.digest)

    def _files(self, source: str, stem: str, files: Mapping[str, bytes], others: Sequence[str]) -> None:
        for extension, content in files.items():
            write_atomically(self.out / source / f"{stem}.{extension}", content)
        for extension in set(others) - files.keys():  # left by an earlier result in another format
            (self.out / source / f"{stem}.{extension}").unlink(missing_ok=True)


def stems(name: str, samples: int) -> list[str]:
    """The file stems of a sample's results."""
    return [name] if samples == 1 else [f"{name}-{number}" for number in range(samples)]


@dataclass
class Job:
    """One process's share of generating `targets` from `inputs` into `out`; executed by `run`."""

    model: FourM
    inputs: SampleInputs
    #: Name as given -> modality that shows it.
    shown_as: dict[str, Modality]
    targets: Sequence[str]
    out: Path
    seed: int = 0
    samples: int = 1
    #: Target -> how its samples are combined into one result; empty: each sample is a result.
    reduce: Mapping[str, How] = field(default_factory=dict)
    batch_size: int = 16
    #: Whether the inputs, as the model sees them, are written beside the results.
    copies: bool = False
    part: int = 0
    parts: int = 1
    workers: int | None = None
    #: Name as given -> weights of regions, boxes or masks.
    regions: Regions = field(default_factory=dict)
    guide: Guide | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> int:
        """The number of results of a sample."""
        return 1 if self.reduce else self.samples

    def sources(self) -> dict[str, str]:
        """Modality to write -> its folder in `out`. Raises ValueError if two would share one."""
        names = [*self.targets, *(m.name for m in self.shown_as.values() if self.copies)]
        sources = {name: self.model.modalities[name].spec.source for name in names}
        for name, source in sources.items():
            if other := next((o for o in sources if o < name and sources[o] == source), None):
                raise ValueError(f"{other} and {name} would both be written to {self.out / source}; request one")
        return sources

    def run(self, *, print_fn: PrintFn = print_line) -> FilesReport:
        """Raises ValueError if, by the record, `out` was generated with other settings; CannotWrite."""
        sources = self.sources()
        settings = {
            "model": digest_of_model(self.model),
            "--input": sorted(self.shown_as),
            "--target": list(self.targets),
            "--seed": self.seed,
            "--samples": self.samples,
            "--with-inputs": self.copies,
            **({"--reduce": dict(self.reduce)} if self.reduce else {}),
            **({"--region": _told(self.regions)} if self.regions else {}),
            **({"--guide": [self.guide.weight, digest_of_model(self.guide.model)]} if self.guide else {}),
            **{f"--{name.replace('_', '-')}": value for name, value in self.options.items() if value is not None},
        }
        folders = [self.out / source for source in sources.values()]
        record = Record(self.out, settings, folders, part=self.part, parts=self.parts)
        drawer = ViewDrawer(self.model.modalities)
        reader = Reader(self.inputs, self.shown_as, drawer, self.seed, self.copies, self.regions)
        report, bad = FilesReport(), BadFiles("skip")
        mine = sum(len(block) for block in self._blocks())
        workers = preparing_workers(mine) if self.workers is None else self.workers
        done, progress = 0, Progress(str(self.out), print_fn)
        tasks = self._tasks(record, report)
        writer = Writer(self.out, record, self.results)
        with Background() as thread:
            for read in ahead(reader, tasks, workers=workers, setting="--workers"):
                usable = dict[str, Read]()
                for name, one in read.items():
                    if isinstance(one, BadFile):
                        bad.add(name, one)
                        report.bad, report.first = report.bad + 1, report.first or str(one)
                    elif record.input_is(name, one.digest) and self._there(name):
                        record.add(name, seed=one.seed, stamp=one.stamp, digest=one.digest)  # touched but unchanged
                        report.kept += 1
                    else:
                        usable[name] = one
                if usable:
                    thread.later(writer.write, self._generate(usable))
                    report.made += len(usable)
                done = report.made + report.kept + report.bad
                progress(done, mine)
            thread.finish()
        return report

    def _blocks(self) -> Iterator[range]:
        """Indices of this part's samples that run together, independent of what already exists."""
        size, total = max(1, self.batch_size // self.samples), len(self.inputs.names)
        for number in range(self.part, -(-total // size), self.parts):
            yield range(number * size, min(total, (number + 1) * size))

    def _tasks(self, record: Record, report: FilesReport) -> Iterator[list[str]]:
        """Names of the samples of a block that are still missing."""
        for block in self._blocks():
            names = [self.inputs.names[i] for i in block]
            missing = [n for n in names if not (record.stamp_is(n, self.inputs.stamp(n)) and self._there(n))]
            report.kept += len(names) - len(missing)
            if missing:
                yield missing

    def _there(self, name: str) -> bool:
        modalities = [self.model.modalities[target] for target in self.targets]
        return all(
            any((self.out / m.spec.source / f"{stem}.{extension}").is_file() for extension in m.spec.extensions)
            for stem in stems(name, self.results)
            for m in modalities
        )

    def _generate(self, batch: Mapping[str, Read]) -> dict[str, tuple[Read, list[Results]]]:
        inputs = self._encoded(list(batch.values()))
        # Inputs that happen to be equal are not several results of one sample.
        alike = self.samples == 1 and min(Counter(read.digest for read in batch.values()).values()) > 1
        inputs = [one for one in inputs for _ in range(self.samples)]
        seeds = [read.seed + k for read in batch.values() for k in range(self.samples)]
        groups = [[i] for i in range(len(inputs))] if alike else [[*range(len(inputs))]]
        results = list[Results]()
        for group in groups:
            results += self.model.generate_batch(
                [inputs[i] for i in group],
                self.targets,
                seeds=[seeds[i] for i in group],
                batch_size=max(self.batch_size, self.samples),
                guide=self.guide,
                **self.options,
            )
        parts = [results[k : k + self.samples] for k in range(0, len(results), self.samples)]
        if self.reduce:
            parts = [[combine(samples, self.reduce, None)] for samples in parts]
        return {name: (read, answers) for (name, read), answers in zip(batch.items(), parts, strict=True)}

    def _encoded(self, batch: Sequence[Read]) -> list[dict[str, Any]]:
        """The model's inputs: ids, encoded together, and values of continuous modalities."""
        inputs = [dict[str, Any](read.values) for read in batch]
        for name in sorted({name for read in batch for name in read.arrays}):
            having = [i for i, read in enumerate(batch) if name in read.arrays]
            tokenizer, most = self.model.tokenizers[name], self.model.modalities[name].spec.layout.num_tokens
            for i, ids in zip(having, calls.encode(tokenizer, [batch[i].arrays[name] for i in having]), strict=True):
                if isinstance(tokenizer, TextTokenizer):
                    ids = np.asarray(ids)[:most]
                inputs[i][name] = Ids(ids)
        return [with_regions(given, read.regions) for given, read in zip(inputs, batch, strict=True)]


def _told(regions: Regions) -> dict[str, list[Any]]:
    """Regions as stored in the record, with masks replaced by their digests."""
    return {
        name: [
            [weight, hashlib.sha256(part.tobytes()).hexdigest()[:16] if isinstance(part, np.ndarray) else list(part)]
            for weight, part in pairs
        ]
        for name, pairs in regions.items()
    }


def summary(report: FilesReport, out: Path, targets: Sequence[str]) -> str:
    """A one-line summary of what a process did."""
    words = [f"{counted(report.made, 'sample')} of {', '.join(targets)} made"]
    words += [f"{report.kept} were there"] if report.kept else []
    words += [f"{report.bad} could not be used"] if report.bad else []
    return f"{out}: {', '.join(words)}"

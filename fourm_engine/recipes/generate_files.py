"""Generate for many samples, into a data set: `fourm generate` with folders, a data set or a file of lines.

In: `SampleInputs`, a model. Out: `out/<source of the target>/<sample>.<extension>`, laid out as in docs/data.md. If
samples are reduced, their spread is in `out/.generated/spread/<source>/<sample>.npy`, where no reader of the data set
takes it for a modality.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.files import write_atomically
from fourm_engine.generate.combine import combine
from fourm_engine.generate.guidance import Guide
from fourm_engine.generate.masks import is_box, read_mask
from fourm_engine.generate.regions import Regions
from fourm_engine.generate.result import Results
from fourm_engine.model import FourM
from fourm_engine.recipes.files_job import FilesJob
from fourm_engine.recipes.generate_reading import Read, Reader, composed, encoded
from fourm_engine.recipes.generated_record import FOLDER, digest_of_model
from fourm_plugins import calls
from fourm_plugins.reductions import How


def stems(name: str, samples: int) -> list[str]:
    """The file stems of a sample's results."""
    return [name] if samples == 1 else [f"{name}-{number}" for number in range(samples)]


@dataclass(kw_only=True)
class GenerateJob(FilesJob):
    """Generates `targets` from `inputs`."""

    model: FourM
    targets: Sequence[str]
    seed: int = 0
    samples: int = 1
    #: Target -> how its samples are combined into one result; empty: each sample is a result.
    reduce: Mapping[str, How] = field(default_factory=dict)
    #: Whether the inputs, as the model sees them, are written beside the results.
    copies: bool = False
    #: Names in `shown_as` that are not inputs, but only written beside the results.
    beside: Sequence[str] = ()
    #: Name as given -> weights of regions, boxes or masks.
    regions: Regions = field(default_factory=dict)
    guide: Guide | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> int:
        """The number of results of a sample."""
        return 1 if self.reduce else self.samples

    @property
    def samples_per_batch(self) -> int:
        return max(1, self.batch_size // self.samples)

    @property
    def _written(self) -> frozenset[str]:
        """Names as given whose files are written beside the results."""
        return frozenset(self.shown_as if self.copies else self.beside)

    def make_settings(self) -> dict[str, Any]:
        return {
            "model": digest_of_model(self.model),
            "--input": sorted(self.shown_as.keys() - {*self.beside}),
            "--target": list(self.targets),
            "--seed": self.seed,
            "--samples": self.samples,
            "--with-inputs": self.copies,
            **({"--with": sorted(self.beside)} if self.beside else {}),
            **({"--reduce": dict(self.reduce)} if self.reduce else {}),
            **({"--region": _told(self.regions)} if self.regions else {}),
            **({"--guide": [self.guide.weight, digest_of_model(self.guide.model)]} if self.guide else {}),
            **{f"--{name.replace('_', '-')}": value for name, value in self.options.items() if value is not None},
        }

    def folders(self) -> list[Path]:
        names = [*self.targets, *(self.shown_as[name].name for name in sorted(self._written))]
        sources = {name: self.model.modalities[name].spec.source for name in names}
        for name, source in sources.items():
            if other := next((o for o in sources if o < name and sources[o] == source), None):
                raise ValueError(f"{other} and {name} would both be written to {self.out / source}; request one")
        return [self.out / source for source in sources.values()]

    def reader(self) -> Reader:
        return Reader(
            self.inputs,
            self.shown_as,
            self.model.reader.drawer,
            self.seed,
            written=self._written,
            beside=frozenset(self.beside),
            regions=self.regions,
        )

    def exists(self, name: str) -> bool:
        modalities = [self.model.modalities[target] for target in self.targets]
        return all(
            any((self.out / m.spec.source / f"{stem}.{extension}").is_file() for extension in m.spec.extensions)
            for stem in stems(name, self.results)
            for m in modalities
        )

    def write(self, name: str, read: Read, result: Sequence[Results]) -> dict[str, Any]:
        for stem, results in zip(stems(name, self.results), result, strict=True):
            for generated in results.values():
                spec = generated.modality.spec
                if isinstance(generated.spread, np.ndarray):  # before the value, which marks a finished sample
                    np.save(buffer := io.BytesIO(), generated.spread.astype(np.float32), allow_pickle=False)
                    write_atomically(self.out / FOLDER / "spread" / spec.source / f"{stem}.npy", buffer.getvalue())
                self._files(spec.source, stem, calls.write(generated.modality, generated.value), spec.extensions)
            for source, files in read.files.items():
                self._files(source, stem, files, ())
        return {"seed": read.seed}

    def _files(self, source: str, stem: str, files: Mapping[str, bytes], others: Sequence[str]) -> None:
        for extension, content in files.items():
            write_atomically(self.out / source / f"{stem}.{extension}", content)
        for extension in set(others) - files.keys():  # left by an earlier result in another format
            (self.out / source / f"{stem}.{extension}").unlink(missing_ok=True)

    def compute(self, batch: Mapping[str, Read]) -> dict[str, list[Results]]:
        inputs = encoded(list(batch.values()), self.model.tokenizers, self.model.modalities)
        # Inputs that happen to be equal are not several results of one sample.
        alike = self.samples == 1 and min(Counter(read.shown_digest for read in batch.values()).values()) > 1
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
        reads = [read for read in batch.values() for _ in range(self.samples)]
        results = [composed(read, one) for read, one in zip(reads, results, strict=True)]
        parts = [results[k : k + self.samples] for k in range(0, len(results), self.samples)]
        if self.reduce:
            parts = [[combine(samples, self.reduce, None)] for samples in parts]
        return dict(zip(batch, parts, strict=True))


def _told(regions: Regions) -> dict[str, list[Any]]:
    """Regions as stored in the record, with masks replaced by their digests."""
    return {
        name: [
            [weight, hashlib.sha256(part.tobytes()).hexdigest()[:16] if isinstance(part, np.ndarray) else list(part)]
            for weight, part in pairs
        ]
        for name, pairs in regions.items()
    }


def marked(regions: Regions, given: Collection[str]) -> dict[str, list[tuple[float, Any]]]:
    """Regions with masks read, once for all samples. Raises ValueError for one of an input that is not given."""
    if absent := [name for name in regions if name not in given]:
        raise ValueError(f"region of {absent[0]!r}, which is not given; give it, or leave the region out")
    found: dict[str, list[tuple[float, Any]]] = {name: [] for name in regions}
    for name, pairs in regions.items():
        for weight, part in pairs:
            found[name].append((weight, part if is_box(part) else read_mask(part, what=f"region of {name!r}")))
    return found

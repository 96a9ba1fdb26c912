"""Open inputs and a model, and generate for all samples: `fourm generate` with a folder, a data set, or lines.

In: arguments of the command line. Out: files in `out`; see `generate_files.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from fourm_engine.data.raw.names import say as remark
from fourm_engine.data.raw.names import shown
from fourm_engine.device import local_device, rank_and_world
from fourm_engine.generate.input_types import Typed
from fourm_engine.generate.masks import is_box, read_mask
from fourm_engine.generate.plan import default_plan
from fourm_engine.generate.regions import Regions
from fourm_engine.generate.validation import targets_of
from fourm_engine.lock import at_work
from fourm_engine.recipes.generate import open_model
from fourm_engine.recipes.generate_files import FilesReport, Job, summary
from fourm_engine.recipes.generated_record import FOLDER
from fourm_engine.recipes.progress import PrintFn, first_only, print_line
from fourm_engine.recipes.sample_inputs import FileInputs, LineInputs, SampleInputs, describe
from fourm_engine.train.distributed import FILES, SETTINGS, check_same, sum_numbers
from fourm_plugins.counting import counted
from fourm_plugins.inputs import looks_like_path, read_file
from fourm_plugins.modality import Modality

T = TypeVar("T")
#: Number of names of samples that processes compare.
SOME_NAMES = 16
#: Timeout of a process that waits for the others at the end.
_LONG = timedelta(days=30)


def is_folder(given: Any) -> bool:
    """Whether an input is a folder of files."""
    return isinstance(given, (str, os.PathLike)) and os.path.isdir(given)  # False for a text too long for a name


def generate_many(
    run: str | Path,
    inputs: Mapping[str, Any],
    targets: Sequence[str],
    out: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    lines: Path | None = None,
    share: tuple[int, int] | None = None,
    with_inputs: bool = False,
    batch_size: int = 16,
    workers: int | None = None,
    seed: int = 0,
    samples: int = 1,
    regions: Regions | None = None,
    device: str | None = None,
    print_fn: PrintFn = print_line,
    **options: Any,
) -> FilesReport:
    """Generate `targets` for every sample into a data set in `out`; existing files are kept.

    Args:
        inputs: modality -> a folder of its files, or one value for all samples; with `data`, None for a modality of the
            data set.
        data, split: a data set as in `data.train`, and a list in its `splits.json`.
        lines: a file of JSON lines, one per sample; see `LineInputs`.
        share: (k, n): this is process k (from 0) of the n that share the samples. By default as set by torchrun.
        with_inputs: also write the inputs, as the model sees them.
        regions: input -> weights of regions of each sample; a mask has the size of the pictures.
        seed: combined with a sample's name into the sample's seed, unless its line sets one.
        options: those of `open_model`, and decoding options, as in `FourM.generate`.

    Raises ValueError for problems that a user can fix, and at the end if samples could not be used."""
    rank, world = rank_and_world()
    if share is not None and world > 1:
        raise ValueError("--share: the processes of torchrun share the samples; leave it out")
    part, parts = share or (rank, world)
    if not 0 <= part < parts:
        raise ValueError(f"--share {part}/{parts}: the first of {parts} is 0/{parts}, the last {parts - 1}/{parts}")
    if not targets:
        raise ValueError("--target is missing; name what to generate for every sample")
    targets = targets_of(targets)
    with at_work(out / FOLDER / f"part-{part}-of-{parts}"), _joined() as processes:
        device = device or (str(local_device()) if world > 1 else None)
        model, options = open_model(run, device=device, **options)
        guide = options.pop("guide")
        default_plan(targets, model.modalities, **{k: v for k, v in options.items() if v is not None and k != "plan"})

        def find(name: str) -> Modality:
            modality = model.reader.instance(name, raw=True)
            if not modality.spec.input:
                raise ValueError(f"{name!r} is a target only; inputs are {', '.join(model.reader.input_names)}")
            if modality.name in targets or name in targets:
                raise ValueError(f"{name!r} is both given and a target; leave it out of one")
            return modality

        source, names = _open(inputs, find, out, data=data, split=split, lines=lines)
        shown_as = {name: find(name) for name in names}
        if twice := [n for n in names if sum(m is shown_as[n] for m in shown_as.values()) > 1]:
            raise ValueError(f"{' and '.join(twice)} are both shown as {shown_as[twice[0]].name!r}; give one")
        first_only(print_fn)(f"{describe(source)} of {', '.join(names)}")
        chosen = {"targets": list(targets), "inputs": sorted(shown_as), "seed": seed, "samples": samples}
        processes.check_same(chosen | {"batch size": batch_size, "copies": with_inputs}, SETTINGS)
        some = source.names[:: -(-len(source.names) // SOME_NAMES)]
        processes.check_same({"number of samples": len(source.names), "names of samples": list(some)}, FILES)
        job = Job(
            model,
            source,
            shown_as,
            targets,
            out,
            seed=seed,
            samples=samples,
            batch_size=batch_size,
            copies=with_inputs,
            part=part,
            parts=parts,
            workers=workers,
            regions=_marked(regions or {}, shown_as),
            guide=guide,
            options=options,
        )
        report = job.run(print_fn=first_only(print_fn))
        print_fn(summary(report, out, targets))
        bad = processes.total(report.bad)
    if bad:
        example = f", such as {report.first}" if report.first else ""
        raise ValueError(f"{counted(bad, 'sample')} could not be used{example}; all others are in {out}")
    return report


def _open(
    inputs: Mapping[str, Any], find: Any, out: Path, *, data: str | None, split: str | None, lines: Path | None
) -> tuple[SampleInputs, list[str]]:
    """The samples, and the names of everything given for them."""
    folders = {name: Path(given) for name, given in inputs.items() if is_folder(given)}
    taken = [name for name, given in inputs.items() if given is None]
    single = {name: given for name, given in inputs.items() if name not in folders and given is not None}
    common = {name: _once(find(name), given) for name, given in single.items()}
    ways = [way for way, there in (("--data", data), ("--lines", lines), ("folders", folders)) if there]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} both name the samples; give one of them")
    for folder in folders.values():
        if out.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{shown(out)}: results would mix with inputs in {shown(folder)}; choose another --out")
    if split is not None and data is None:
        raise ValueError("--split is for a data set; name it with --data")
    if taken and data is None:
        raise ValueError(f"--input {taken[0]}: has no value, which only --data allows; give a file, a folder or words")
    source: SampleInputs
    if data is not None:
        if not taken:
            raise ValueError("--data: name the modalities to give with --input NAME")
        source = FileInputs.of_data(data, split, taken, find, common)
    elif lines is not None:
        if not lines.is_file():
            raise ValueError(f'{lines}: no such file; it has a line for each sample, such as {{"NAME": "FILE"}}')
        source = LineInputs(lines, find, common)
        return source, source.keys
    else:
        source = FileInputs.of_folders(folders, find, common)
    for note in source.notes:
        remark(note)
    return source, [*(taken or folders), *common]


def _marked(regions: Regions, given: Collection[str]) -> dict[str, list[tuple[float, Any]]]:
    """Regions with masks read, once for all samples."""
    if absent := [name for name in regions if name not in given]:
        raise ValueError(f"region of {absent[0]!r}, which is not given; give it, or leave the region out")
    marked: dict[str, list[tuple[float, Any]]] = {name: [] for name in regions}
    for name, pairs in regions.items():
        for weight, part in pairs:
            marked[name].append((weight, part if is_box(part) else read_mask(part, what=f"region of {name!r}")))
    return marked


def _once(modality: Modality, given: Any) -> Any:
    """A value shared by all samples: the content of a file, read once, or typed text."""
    if isinstance(given, str):
        if looks_like_path(given, modality.spec.extensions, typed=modality.accepts_text):
            return read_file(Path(given), modality.spec.extensions)
        return Typed(given)
    return given


class _Processes:
    """The processes of torchrun that share the work. Raises ValueError if one of them has ended."""

    def total(self, number: int) -> int:
        """The sum over all processes. None exits before all are done, or torchrun would stop the others."""
        return round(self._exchange(lambda: sum_numbers([float(number)])[0]))

    def check_same(self, facts: Mapping[str, Any], remedy: str) -> None:
        self._exchange(lambda: check_same(facts, remedy))

    def _exchange(self, collective: Callable[[], T]) -> T:
        try:
            return collective()
        except RuntimeError as error:  # gloo's, of a broken connection
            raise ValueError(
                "another process of this command has ended; results that are finished are kept: run the same command "
                "again to continue"
            ) from error


@contextmanager
def _joined() -> Iterator[_Processes]:
    import torch.distributed as dist

    join = rank_and_world()[1] > 1 and not dist.is_initialized()
    if join:
        dist.init_process_group("gloo", timeout=_LONG)
    try:
        yield _Processes()
    finally:
        if join:
            dist.destroy_process_group()

"""Open inputs and a model, and generate for all samples: `fourm generate` with a folder, a data set, or lines.

In: arguments of the command line. Out: files in `out`; see `generate_files.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourm_engine.data.splits import copy_splits
from fourm_engine.generate.combine import Reduce, check_combining, reductions_of
from fourm_engine.generate.plan import default_plan
from fourm_engine.generate.regions import Regions
from fourm_engine.generate.validation import check_samples, targets_of
from fourm_engine.recipes.files_job import FilesReport, fail_if_bad, sharing
from fourm_engine.recipes.generate import open_model
from fourm_engine.recipes.generate_files import GenerateJob, marked
from fourm_engine.recipes.open_inputs import find_once, open_inputs
from fourm_engine.recipes.progress import PrintFn, first_only, print_line
from fourm_engine.recipes.sample_inputs import FileInputs, describe
from fourm_plugins.modality import Modality


def generate_many(
    run: str | Path,
    inputs: Mapping[str, Any],
    targets: Sequence[str] | str,
    out: str | Path,
    *,
    data: str | None = None,
    split: str | None = None,
    lines: str | Path | None = None,
    share: tuple[int, int] | None = None,
    with_inputs: bool = False,
    beside: Sequence[str] = (),
    batch_size: int = 16,
    workers: int | None = None,
    seed: int = 0,
    samples: int = 1,
    reduce: Reduce | None = None,
    regions: Regions | None = None,
    device: str | None = None,
    print_fn: PrintFn = print_line,
    **options: Any,
) -> FilesReport:
    """Generate `targets` for every sample into a data set in `out`; existing files are kept. Memory does not grow with
    the number of files, which are read, encoded and decoded in batches.

    Args:
        run: folder of a run, an exported model, or a Hub id.
        inputs: modality -> a folder of its files, or one value for all samples; with `data`, None for a modality of the
            data set.
        data, split: a data set as in `data.train`, and a list in its `splits.json`.
        lines: a file of JSON lines, one per sample; see `LineInputs`.
        share: (k, n): this is process k (from 0) of the n that share the samples. By default as set by torchrun.
        with_inputs: also write the inputs, as the model sees them, and the `splits.json` of `data`.
        beside: further modalities of `data` to write through the same view, such as the target of a task.
        regions: input -> weights of regions of each sample; a mask has the size of the pictures.
        reduce: how the `samples` of each input are combined, as in `FourM.generate`; their spread is written, too.
        seed: combined with a sample's name into the sample's seed, unless its line sets one.
        options: those of `open_model`, and decoding options, as in `FourM.generate`.

    Raises ValueError for problems that a user can fix, and at the end if samples could not be used."""
    out, lines = Path(out), None if lines is None else Path(lines)
    if not targets:
        raise ValueError("--target is missing; name what to generate for every sample")
    targets = targets_of(targets)
    check_samples(samples)
    check_combining(samples, reduce, None)
    with sharing(out, share, device) as processes:
        model, options = open_model(run, device=processes.device, **options)
        guide = options.pop("guide")
        default_plan(targets, model.modalities, **{k: v for k, v in options.items() if v is not None and k != "plan"})

        def find(name: str) -> Modality:
            modality = model.reader.instance(name, raw=True)
            if not modality.spec.input and name not in beside:
                raise ValueError(f"{name!r} is a target only; inputs are {', '.join(model.reader.input_names)}")
            if modality.name in targets or name in targets:
                raise ValueError(f"{name!r} is both given and a target; leave it out of one")
            return modality

        source, names = open_inputs(inputs, find, out, data=data, split=split, lines=lines, beside=beside)
        shown_as = find_once(names, find)
        first_only(print_fn)(f"{describe(source)} of {', '.join(names)}")
        job = GenerateJob(
            inputs=source,
            shown_as=shown_as,
            out=out,
            model=model,
            targets=targets,
            seed=seed,
            samples=samples,
            reduce=reductions_of(reduce, targets, model.modalities),
            batch_size=batch_size,
            copies=with_inputs,
            beside=beside,
            part=processes.part,
            parts=processes.parts,
            workers=workers,
            regions=marked(regions or {}, shown_as.keys() - {*beside}),
            guide=guide,
            options=options,
        )
        report, bad = processes.run(job, ", ".join(targets), print_fn)
        whole = with_inputs and split is None and job.part == 0
        if whole and isinstance(source, FileInputs) and source.root is not None:
            copy_splits(source.root, out)
    fail_if_bad(bad, report.first, out)
    return report

"""Implements `fourm predict` for folders and data sets.

In: arguments of the command line. Out: files in `out`; see `predict_files.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.files_job import FilesReport, fail_if_bad, sharing
from fourm_engine.recipes.open_inputs import find_once, open_inputs
from fourm_engine.recipes.predict_files import PredictJob
from fourm_engine.recipes.predict_task import note_missing, refuse_embeddings
from fourm_engine.recipes.progress import PrintFn, choose_threads, print_line
from fourm_engine.recipes.sample_inputs import describe
from fourm_engine.transfer.model import load_head
from fourm_plugins.modality import Modality


def predict_many(
    run: str | Path,
    inputs: Mapping[str, Any],
    out: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    k: int = 5,
    batch_size: int = 16,
    workers: int | None = None,
    device: str | None = None,
    print_fn: PrintFn = print_line,
) -> FilesReport:
    """Predict for every sample, into files in `out`; existing ones are kept. Under torchrun, processes share the
    samples.

    Args:
        inputs: name of an input -> a folder of its files, or one value for all samples; with `data`, None for a
            modality of the data set, by default all inputs of the model.
        data, split: a data set as in `data.train`, and a list in its `splits.json`.
        k: number of classes of a sample in the table.

    Raises ValueError for problems that a user can fix, and at the end if samples could not be used."""
    with sharing(out, None, device) as processes:
        choose_threads(processes.device)
        model = load_head(run, device=processes.device, manager=manager_of_run(run))
        refuse_embeddings(run, model)

        def find(name: str) -> Modality:
            return model.reader.instance(name, raw=True)

        if data is not None and None not in inputs.values():
            common = [find(name) for name in inputs]
            inputs = {**inputs, **{name: None for name, one in model.inputs.items() if one not in common}}
        source, names = open_inputs(inputs, find, out, data=data, split=split)
        shown_as = find_once(names, find)
        if processes.part == 0:
            note_missing(model, [modality.name for modality in shown_as.values()])
            print_fn(f"{describe(source)} of {', '.join(names)}")
        job = PredictJob(
            inputs=source,
            shown_as=shown_as,
            out=out,
            model=model,
            k=k,
            batch_size=batch_size,
            part=processes.part,
            parts=processes.parts,
            workers=workers,
        )
        report, bad = processes.run(job, job.what, print_fn)
        if job.part == 0 and (table := job.finish()) is not None:
            print_fn(str(table))
    fail_if_bad(bad, report.first, out)
    return report

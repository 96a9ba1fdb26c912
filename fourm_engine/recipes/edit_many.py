"""Edit many samples, into a data set: `fourm edit` with folders.

In: arguments of the command line. Out: files in `out`, as `generate_files.py` writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.generate.combine import Reduce, check_combining, reductions_of
from fourm_engine.generate.edit import EditPlan, plan_edit
from fourm_engine.generate.masks import read_mask
from fourm_engine.generate.paste import paste
from fourm_engine.generate.plan import default_plan
from fourm_engine.generate.regions import Regions
from fourm_engine.generate.result import Results
from fourm_engine.generate.validation import check_samples, names_of
from fourm_engine.recipes.files_job import FilesReport, fail_if_bad, sharing
from fourm_engine.recipes.generate import open_model
from fourm_engine.recipes.generate_files import GenerateJob, marked
from fourm_engine.recipes.generate_reading import Read, Reader
from fourm_engine.recipes.open_inputs import find_once, is_folder, open_inputs
from fourm_engine.recipes.progress import PrintFn, first_only, print_line
from fourm_engine.recipes.sample_inputs import MASK, describe
from fourm_plugins.modality import Modality


@dataclass(kw_only=True)
class EditJob(GenerateJob):
    """Edits `targets`, those of the plan `edit`."""

    edit: EditPlan
    #: The options of the edit, as recorded.
    edit_options: Mapping[str, Any]
    #: The mask for all samples; None: each has a file.
    mask: np.ndarray | None = None
    paste: bool = False

    @property
    def _written(self) -> frozenset[str]:
        return frozenset(self.shown_as.keys() - {*self.targets}) if self.copies else frozenset()

    def make_settings(self) -> dict[str, Any]:
        return super().make_settings() | dict(self.edit_options)

    def reader(self) -> Reader:
        # Without a part to edit, the targets only say which samples there are.
        beside = frozenset() if self.edit.partial else frozenset(self.targets)
        reader = replace(super().reader(), written=self._written, beside=beside)
        return replace(reader, edit=self.edit, mask=self.mask, paste=self.paste)

    def write(self, name: str, read: Read, result: Sequence[Results]) -> dict[str, Any]:
        if self.paste:
            # The files are read again: kept until now, large ones would fill the memory.
            into = self.reader().originals(name)
            result = [paste(one, into) for one in result]
        return super().write(name, read, result)


def edit_many(
    run: str | Path,
    inputs: Mapping[str, Any],
    out: str | Path,
    *,
    mask: Any = None,
    outpaint: float | Sequence[float] | None = None,
    change: Mapping[str, Any] | None = None,
    keep: Sequence[str] | str = (),
    halo: int | None = None,
    paste: bool = False,
    share: tuple[int, int] | None = None,
    with_inputs: bool = False,
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
    """Edit every sample of folders, as `FourM.edit` does one, into a data set in `out`; existing files are kept.

    Args:
        run: folder of a run, an exported model, or a Hub id.
        inputs, change: modality -> a folder of its files, or one value for all samples.
        mask: a folder of masks, or one for all samples.
        outpaint, keep, halo, paste: as in `FourM.edit`.
        share, with_inputs, batch_size, workers, seed, samples, reduce, regions, options: as in `generate_many`.

    Raises ValueError for problems that a user can fix, and at the end if samples could not be used."""
    out, change, keep = Path(out), dict(change or {}), names_of("keep", keep)
    if paste and mask is None and outpaint is None:
        raise ValueError("paste has no effect without a mask or outpaint; leave it out")
    if paste and with_inputs:
        raise ValueError("--with-inputs writes inputs at the model's size, --paste results at theirs; leave one out")
    check_samples(samples)
    check_combining(samples, reduce, None)
    with sharing(out, share, device) as processes:
        model, options = open_model(run, device=processes.device, **options)
        guide = options.pop("guide")
        edit: dict[str, Any] = {"outpaint": outpaint, "keep": keep, "halo": halo}
        plan = plan_edit(inputs, change, model.reader.find, masked=mask is not None, **edit)
        decoding = {k: v for k, v in options.items() if v is not None and k != "plan"}
        default_plan(plan.targets, model.modalities, **decoding)

        def find(name: str) -> Modality:
            modality = model.reader.instance(name, raw=name not in plan.targets)
            if not modality.spec.input and name not in plan.targets:
                raise ValueError(f"{name!r} is a target only; inputs are {', '.join(model.reader.input_names)}")
            return modality

        for name in plan.targets:
            results = out / model.modalities[name].spec.source
            if is_folder(inputs[name]) and results.resolve() == Path(inputs[name]).resolve():
                raise ValueError(f"{results}: results would replace the inputs; choose another --out")
        masks = {MASK: mask} if is_folder(mask) else {}
        one = None if mask is None or masks else read_mask(mask)
        source, names = open_inputs({**inputs, **change, **masks}, find, out, data=None)
        edit_options: dict[str, Any] = {"--change": sorted(change), "--keep": sorted(keep), "--paste": paste}
        edit_options |= {"--outpaint": plan.sides, "--halo": plan.halo, "--mask": "a folder" if masks else None}
        if one is not None:
            edit_options["--mask"] = hashlib.sha256(repr(one.shape).encode() + one.tobytes()).hexdigest()[:16]
        job = EditJob(
            inputs=source,
            shown_as=find_once(names, find),
            out=out,
            model=model,
            targets=plan.targets,
            seed=seed,
            samples=samples,
            reduce=reductions_of(reduce, plan.targets, model.modalities),
            batch_size=batch_size,
            copies=with_inputs,
            part=processes.part,
            parts=processes.parts,
            workers=workers,
            regions=marked(regions or {}, plan.shown),
            guide=guide,
            options=options,
            edit=plan,
            edit_options=edit_options,
            mask=one,
            paste=paste,
        )
        first_only(print_fn)(f"{describe(source)} of {', '.join(names)}")
        report, bad = processes.run(job, ", ".join(plan.targets), print_fn)
    fail_if_bad(bad, report.first, out)
    return report

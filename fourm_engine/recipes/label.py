"""Implements `fourm label`: makes modalities of a data set from another modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm_engine.data.raw.label import LabelReport, Step, plan
from fourm_engine.data.raw.label import label as label_folder
from fourm_engine.data.raw.pipes import open_root
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.root import Root
from fourm_engine.data.sets import all_sets
from fourm_engine.device import rank_and_world
from fourm_engine.modalities import load_manager, load_modalities
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.progress import PrintFn, Progress, choose_threads, first_only, print_line, warn
from fourm_engine.storage.url import parse, refuse_remote
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality

#: Where the data itself cannot be written to.
OUT = "name a local folder for the labels: --out FOLDER"


@dataclass(frozen=True)
class Labelled:
    """The result of one step of this process for one data set; `root` is the folder of the labels."""

    root: Path
    step: Step
    report: LabelReport

    def __str__(self) -> str:
        done, step = self.report, self.step
        lacking = f"{done.lacking} have no {step.source}, " if done.lacking else ""
        return (
            f"{self.root}: {counted(done.labelled, 'sample')} of {step.target} made from {step.source}, {done.kept} "
            f"were there, {lacking}{len(done.bad)} skipped"
        )


def label(
    config: RunConfig,
    source: str,
    targets: Sequence[str],
    *,
    out: Path | None = None,
    models: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    print_fn: PrintFn = print_line,
    warn: PrintFn = warn,
) -> list[Labelled]:
    """Label `data.train` and `data.val`, keeping existing labels. Under torchrun, processes share the shards.

    Args:
        source: the modality to make `targets` from, directly or through one another, as declared by their plugins.
        out: folder of the labels; None: the data's own. Several data sets have a folder each in `out`, by name.
        models: target -> pretrained model, a folder or a Hub id.
        options: target -> settings of its labeller.
        warn: receives a line for each file that cannot be used.

    Raises ValueError for a target that cannot be made from the data, and BadFile for an unusable file if
    `data.on_error` is "raise"."""
    manager = load_manager(config.modalities)
    modalities = load_modalities(config.modalities, manager)
    models, options = models or {}, options or {}
    steps = plan(modalities, source, targets, models)
    choose_threads()
    rank, world = rank_and_world()
    roots: dict[str, tuple[Root, Mapping[str, Modality]]] = {}
    for one in all_sets(config.data, modalities):
        if (root := one.folder) is not None:
            if out is None:
                refuse_remote(root, one.key, OUT)
            # The whole folder is labelled, even if only some of its tars are trained on.
            folder = open_root(root, config.data, manager).folder
            if out is None and isinstance(folder, PluginRoot):
                raise ValueError(f"{one.key}: {root} is only read from; {OUT}")
            roots.setdefault(str(folder), (folder, modalities | dict(one.modalities)))
    if not roots:
        raise ValueError("data.train is not set: name the folder to label")
    if out is not None and any(out.resolve() == Path(root).resolve() for root in roots):
        raise ValueError(f"--out {out}: the data's folder, where labels go without it; leave it out")
    outs = _outs([root for root, _ in roots.values()], out)
    done = []
    for step in steps:
        made_from, target = modalities[step.source], modalities[step.target]
        # Only one network is in memory at a time; later steps read the labels of earlier ones.
        made: dict[str, Any] = {"model": models.get(step.target), "options": dict(options.get(step.target, {}))}
        labeller = target.labeller(made_from, made["model"], **made["options"])
        for (data, readers), folder in zip(roots.values(), outs, strict=True):
            made_from, target = readers[step.source], readers[step.target]
            report = label_folder(
                data,
                made_from,
                target,
                labeller,
                out=folder,
                shares=readers[source],
                among=readers.values(),
                made_by=made,
                on_error=config.data.on_error,
                max_bytes=config.data.max_file_mb << 20,
                workers=config.data.workers,
                rank=rank,
                world=world,
                progress=Progress(f"{folder}: {step.target}", first_only(print_fn)),
            )
            for bad in report.bad:
                warn(f"skipped {bad}")
            done.append(Labelled(folder, step, report))
            print_fn(str(done[-1]))
    return done


def _outs(roots: Sequence[Root], out: Path | None) -> list[Path]:
    """Where the labels of each data set go. Raises ValueError where two would share a folder."""
    if out is None:
        return [root for root in roots if isinstance(root, Path)]  # all others were rejected above
    refuse_remote(parse(out), "--out", "name a local folder, then upload it")
    if len(roots) == 1:
        return [out]
    names = [Path(root.location if isinstance(root, PluginRoot) else root.name).name for root in roots]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"--out {out}: two data sets are called {twice}; label one at a time (data.val=null)")
    return [out / name for name in names]

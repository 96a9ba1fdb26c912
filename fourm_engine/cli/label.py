"""`fourm label`: make modalities of a data set from another one, with the models and the geometry that their plugins
bring."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

log = logging.getLogger(__name__)


def label(
    config: Annotated[Path, typer.Argument(help="YAML config; its data.train and data.val are labelled.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")] = None,  # noqa: UP045
    *,
    source: Annotated[str, typer.Option("--from", help="Modality to make them from.")],
    targets: Annotated[str, typer.Option("--to", help="Modalities to make, separated by commas.")],
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="TARGET=NAME of the pretrained model to use, a folder or a Hub id; repeat it."),
    ] = None,
    option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="TARGET.KEY=VALUE for a target's labeller; repeat it."),
    ] = None,
) -> None:
    """Label the data sets of a config. Continues where it was stopped; under torchrun the shards are shared out."""
    from fourm_engine.cli.progress import Progress
    from fourm_engine.cli.share import rank_and_world
    from fourm_engine.data.label import label as run
    from fourm_engine.data.label import plan
    from fourm_engine.data.made import record_labels
    from fourm_engine.modalities import load_manager, load_modalities
    from fourm_engine.recipes.config import load_config

    settings = load_config(config, overrides or [])
    modalities = load_modalities(settings.modalities, load_manager(settings.modalities))
    names = [name for name in targets.split(",") if name]
    models, options = _models(model or [], names), _options(option or [], names)
    steps = plan(modalities, source, names, models)
    rank, world = rank_and_world()
    roots = dict.fromkeys(root for root in (settings.data.train, settings.data.val) if root is not None)
    if not roots:
        raise ValueError(f"{config}: data.train is not set: name the folder to label")
    for step in steps:
        target = modalities[step.target]
        # One network at a time is in memory; a step of this process goes on from what its earlier ones made.
        made: dict[str, Any] = {"model": models.get(step.target), "options": options.get(step.target, {})}
        labeller = target.labeller(modalities[step.source], made["model"], **made["options"])
        for root in roots:
            if (root / modalities[source].spec.source).is_dir():  # otherwise there is nothing to label, which is said
                record_labels(root / target.spec.source, modalities[step.source], target, **made)
            report = run(
                root,
                modalities[step.source],
                target,
                labeller,
                shares=modalities[source],
                on_error=settings.data.on_error,
                max_bytes=settings.data.max_file_mb << 20,
                rank=rank,
                world=world,
                progress=Progress(f"{root}: {step.target}", rank),
            )
            for bad in report.bad:
                print(f"skipped {bad}", file=sys.stderr)
            lacking = f"{report.lacking} have no {step.source}, " if report.lacking else ""
            print(
                f"{root}: {report.labelled} samples of {step.target} made from {step.source}, "
                f"{report.kept} were there, {lacking}{len(report.bad)} skipped",
                flush=True,
            )


def _models(given: Sequence[str], targets: Sequence[str]) -> dict[str, str]:
    """Target -> its model. Without a target's name it is the only target's."""
    models: dict[str, str] = {}
    for text in given:
        target, equals, name = text.partition("=")
        if not equals and len(targets) == 1:
            target, name = targets[0], text
        if not (target and name):
            raise ValueError(f"--model {text!r}: expected TARGET=NAME, such as {targets[0]}={text or 'NAME'}")
        if target in models:
            raise ValueError(f"--model {target}: given twice; give it once")
        models[target] = name
    return models


def _options(given: Sequence[str], targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Target -> options of its labeller; values are YAML, as overrides are."""
    from fourm_engine.yaml_config import read_value

    options: dict[str, dict[str, Any]] = {}
    for text in given:
        path, equals, value = text.partition("=")
        target, dot, key = path.rpartition(".")
        if not (equals and dot and target and key):
            raise ValueError(f"--option {text!r}: expected TARGET.KEY=VALUE")
        if target not in targets:
            raise ValueError(f"--option {text!r}: {target} is not among --to")
        options.setdefault(target, {})[key] = read_value(value, f"--option {text!r}")
    return options

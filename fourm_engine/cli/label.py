"""`fourm label`: make modalities of a data set from another one, with the models that their plugins bring."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def label(
    config: Annotated[Path, typer.Argument(help="YAML config; its data.train and data.val are labelled.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")] = None,  # noqa: UP045
    *,
    source: Annotated[str, typer.Option("--from", help="Modality to make them from.")],
    targets: Annotated[str, typer.Option("--to", help="Modalities to make, separated by commas.")],
    model: Annotated[Optional[str], typer.Option(help="Name or folder of the pretrained model to use.")] = None,  # noqa: UP045
) -> None:
    """Label the data sets of a config. Continues where it was stopped; under torchrun the shards are shared out."""
    from fourm_engine.cli.share import rank_and_world
    from fourm_engine.config import load_config
    from fourm_engine.data.label import label as run
    from fourm_engine.modalities import load_manager, load_modalities

    settings = load_config(config, overrides or [])
    modalities = load_modalities(settings.modalities, load_manager(settings.modalities))
    names = [name for name in targets.split(",") if name]
    for name in (source, *names):
        if name not in modalities:
            raise ValueError(f"no modality {name!r} takes part; there are {', '.join(modalities)}")
    rank, world = rank_and_world()
    roots = [root for root in (settings.data.train, settings.data.val) if root is not None]
    for name in names:
        labeller = modalities[name].labeller(modalities[source], model)
        for root in dict.fromkeys(roots):
            report = run(
                root,
                modalities[source],
                modalities[name],
                labeller,
                on_error=settings.data.on_error,
                max_bytes=settings.data.max_file_mb << 20,
                rank=rank,
                world=world,
            )
            for bad in report.bad:
                print(f"skipped {bad}", file=sys.stderr)
            print(
                f"{root}: {report.labelled} samples of {name} made from {source}, "
                f"{report.kept} were there, {len(report.bad)} skipped"
            )

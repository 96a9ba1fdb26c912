"""`fourm label`: derive modalities of a data set from another one, with the labellers of their plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Overrides, by_target, settings_by_target


def label(
    config: Annotated[Path, typer.Argument(help="YAML config, whose data.train and data.val are labelled.")],
    overrides: Overrides = None,
    *,
    source: Annotated[str, typer.Option("--from", metavar="MODALITY", help="Modality to label from.")],
    targets: Annotated[str, typer.Option("--to", metavar="NAME,NAME", help="Modalities to make, separated by commas.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Local folder for the labels, if the data is remote or read-only. Default: the data's.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="TARGET=NAME of a pretrained model, a folder or Hub id; repeatable."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="TARGET.KEY=VALUE, for a labeller; repeatable.")
    ] = None,
) -> None:
    """Label the data sets of a config. Resumes when interrupted; torchrun divides the shards."""
    from fourm_engine.recipes import label as recipe
    from fourm_engine.recipes.config import load_config

    names = [name for name in targets.split(",") if name]
    recipe.label(
        load_config(config, overrides or []),
        source,
        names,
        out=out,
        models=by_target("--model", model, names),
        options=settings_by_target("--option", option, names),
    )

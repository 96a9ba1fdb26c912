"""`fourm init`: write a config for a folder of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of your data, with files such as FOLDER/images/0001.jpg.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config to write. Default: FOLDER's name with .yaml.")
    ] = None,
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Extract texts from tables (JSON lines, JSON, CSV, TSV), and use them.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a config that fits a folder and this machine, with a comment on each line."""
    from fourm_engine.recipes.init import init as recipe

    for line in recipe(folder, out=out, force=force, unpack=unpack).lines:
        print(line)

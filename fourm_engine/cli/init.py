"""`fourm init`: from a folder of files to a config that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of your data, such as FOLDER/images/0001.jpg.")],
    *,
    out: Annotated[Optional[Path], typer.Option(help="Config to write; by default FOLDER's name with .yaml.")] = None,  # noqa: UP045
    unpack: Annotated[
        bool,
        typer.Option(
            "--unpack", help="Write the texts of tables (JSON lines, JSON, CSV, TSV) to folders, and use them."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Look at a folder and at this machine, and write a config that fits both, with a comment a line."""
    from fourm_engine.recipes.init import init as recipe

    for line in recipe(folder, out=out, force=force, unpack=unpack).lines:
        print(line)

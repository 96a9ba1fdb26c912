"""Arguments and options that several commands take, each with one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Config = Annotated[Path, typer.Argument(help="YAML config.")]
Overrides = Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")]  # noqa: UP045
OtherConfig = Annotated[Optional[Path], typer.Option(help="Config in place of RUN/config.yaml.")]  # noqa: UP045
Providers = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="NAME=DISTRIBUTION, where two provide one plugin; repeat it."),
]
Disable = Annotated[Optional[list[str]], typer.Option(help="A plugin to leave alone; repeat it.")]  # noqa: UP045

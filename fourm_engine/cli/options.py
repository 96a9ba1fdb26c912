"""Arguments and options that several commands take, each with one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(help="YAML config.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value …")]
OtherConfig = Annotated[Path | None, typer.Option(help="Config in place of RUN/config.yaml.")]
Providers = Annotated[list[str] | None, typer.Option(help="NAME=DISTRIBUTION, where two provide a plugin; repeat it.")]
Disable = Annotated[list[str] | None, typer.Option(help="A plugin to leave alone; repeat it.")]

"""`fourm convert`: models and tokenizers to and from the published 4M format, with the same weights bit for bit."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Disable, Providers, pairs


class Format(str, Enum):
    native = "native"
    published = "published"


def convert(
    source: Annotated[str, typer.Argument(help="Folder, file or Hub id of a model or tokenizer, of either format.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; of the published format also a .safetensors file.")],
    to: Annotated[Format, typer.Option("--to", help="Format to write.")],
    domain: Annotated[list[str] | None, typer.Option(help="Of a model only this modality; repeat it.")] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(help="MODALITY=PLACE of its tokenizer, to be saved with a model (native); repeat it."),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="Of a published tokenizer: the installed modality that it is for.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Merge this adapter into the model: its folder, or that of the run.")
    ] = None,
    provider: Providers = None,
    disable: Disable = None,
) -> None:
    """Write a model or tokenizer in the other format. Without --domain all of it is converted, or nothing."""
    tokenizers = pairs("--tokenizer", tokenizer, "MODALITY=PLACE")
    providers = pairs("--provider", provider, "NAME=DISTRIBUTION")

    from fourm_engine.recipes import convert as recipe

    written = recipe.convert(
        source,
        out,
        to.value,
        domains=domain or (),
        tokenizers=tokenizers,
        modality=modality,
        providers=providers,
        disable=disable or (),
        adapter=adapter,
    )
    print(written)

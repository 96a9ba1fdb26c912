"""`fourm convert`: models and tokenizers to and from the published 4M format, with the same weights bit for bit."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Providers, pairs


class Format(str, Enum):
    native = "native"
    published = "published"


def convert(
    source: Annotated[str, typer.Argument(help="Folder, file or Hub id of a model or tokenizer, of either format.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, or in the published format a .safetensors file.")],
    to: Annotated[Format, typer.Option("--to", help="Format to write.")],
    domain: Annotated[
        list[str] | None, typer.Option(metavar="MODALITY", help="Convert only this modality of a model; repeatable.")
    ] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE", help="MODALITY=SOURCE: save this tokenizer with a model (native); repeatable."
        ),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="The installed modality of a published tokenizer.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="An adapter, or its run, to merge into the model.")
    ] = None,
    provider: Providers = None,
) -> None:
    """Convert a model or tokenizer between the native and the published format, bit for bit."""
    tokenizers = pairs("--tokenizer", tokenizer, "MODALITY=SOURCE")
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
        adapter=adapter,
    )
    print(written)

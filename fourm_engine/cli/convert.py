"""`fourm convert`: published 4M checkpoints to models of ours, and back; the same weights bit for bit."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer


class Format(str, Enum):
    native = "native"
    published = "published"


def convert(
    source: Annotated[str, typer.Argument(help="Folder, safetensors file or Hub id of a model, of either format.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; of the published format also a .safetensors file.")],
    to: Annotated[Format, typer.Option("--to", help="Format to write.")],
    domain: Annotated[Optional[list[str]], typer.Option(help="Only this modality; repeat it.")] = None,  # noqa: UP045
    tokenizer: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="MODALITY=PLACE of its tokenizer, to be saved with it (native); repeat it."),
    ] = None,
) -> None:
    """Write a model in the other format. Nothing is left out silently: without --domain, all is converted."""
    tokenizers = {}
    for text in tokenizer or []:
        name, _, place = text.partition("=")
        if not (name and place):
            raise ValueError(f"--tokenizer {text!r}: expected MODALITY=PLACE")
        tokenizers[name] = place
    if to is Format.native and out.suffix == ".safetensors":
        raise ValueError(f"{out}: models of ours are folders; give one")

    from fourm_engine.convert.model import save_published
    from fourm_engine.convert.published import WEIGHTS
    from fourm_engine.model import FourM

    model = FourM.from_pretrained(source, device="cpu", domains=domain, tokenizers=tokenizers)
    if model.missing and not domain:
        raise ValueError("; ".join(model.missing.values()))
    if to is Format.native:
        model.save_pretrained(out)
        print(out)
        return
    target = out if out.suffix == ".safetensors" else out / WEIGHTS
    save_published(model, target)
    print(target)

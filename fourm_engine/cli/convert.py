"""`fourm convert`: published 4M checkpoints and tokenizers to models and tokenizers of ours, and back; the same weights
bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fourm_engine.cli.share import pairs

if TYPE_CHECKING:
    from fourm_plugins.manager import PluginManager


class Format(str, Enum):
    native = "native"
    published = "published"


def convert(
    source: Annotated[str, typer.Argument(help="Folder, file or Hub id of a model or tokenizer, of either format.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; of the published format also a .safetensors file.")],
    to: Annotated[Format, typer.Option("--to", help="Format to write.")],
    domain: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Of a model only this modality; repeat it."),
    ] = None,
    tokenizer: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="MODALITY=PLACE of its tokenizer, to be saved with a model (native); repeat it."),
    ] = None,
    modality: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a published tokenizer: the installed modality that it is for."),
    ] = None,
    provider: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NAME=DISTRIBUTION, where two provide one plugin; repeat it."),
    ] = None,
    disable: Annotated[Optional[list[str]], typer.Option(help="A plugin to leave alone; repeat it.")] = None,  # noqa: UP045
) -> None:
    """Write a model or tokenizer in the other format. Nothing is left out silently: without --domain, all is
    converted."""
    tokenizers = pairs("--tokenizer", tokenizer, "MODALITY=PLACE")
    if to is Format.native and out.suffix == ".safetensors":
        raise ValueError(f"{out}: models and tokenizers of ours are folders; give one")

    from fourm_engine.convert.published import WEIGHTS
    from fourm_engine.convert.tokenizers import is_tokenizer
    from fourm_engine.lock import at_work
    from fourm_engine.model import FourM
    from fourm_plugins.manager import PluginManager

    manager = PluginManager(disabled=disable or (), providers=pairs("--provider", provider, "NAME=DISTRIBUTION"))
    target = out if out.suffix == ".safetensors" or to is Format.native else out / WEIGHTS
    of_tokenizer = is_tokenizer(source)
    if of_tokenizer and (domain or tokenizer):
        raise ValueError("--domain and --tokenizer are for models, and this is a tokenizer; leave them out")
    if modality and not of_tokenizer:
        raise ValueError("--modality is for tokenizers, and this is a model; use --domain")
    native = to is Format.native
    with at_work(target if native else target.parent, replaced=native):
        if of_tokenizer:
            _convert_tokenizer(source, target, to, modality, manager)
        else:
            model = FourM.from_pretrained(source, device="cpu", domains=domain, tokenizers=tokenizers, manager=manager)
            if model.missing and not domain:
                raise ValueError("; ".join(model.missing.values()))
            model.save_pretrained(target) if native else model.save_published(target)
    print(target)


def _convert_tokenizer(source: str, target: Path, to: Format, modality: str | None, manager: PluginManager) -> None:
    from fourm_engine.convert.tokenizers import open_tokenizer, published_modality, save_published_tokenizer
    from fourm_engine.tokenizers.store import save_tokenizer

    spec = None if modality is None else published_modality(source, modality, manager).spec
    opened = open_tokenizer(source, spec, manager=manager)
    if to is Format.published:
        save_published_tokenizer(opened, target)
        return
    _check_own(target, (child.name for child in target.iterdir()) if target.is_dir() else ())
    save_tokenizer(opened, target, manager=manager)


def _check_own(folder: Path, names: Iterable[str]) -> None:
    """A tokenizer replaces one that was there, and nothing else."""
    from fourm_engine.tokenizers.store import DOCUMENT

    found = sorted(names)
    if found and DOCUMENT not in found:
        raise ValueError(f"{folder} holds {found[0]!r} and no tokenizer; choose a folder of its own")

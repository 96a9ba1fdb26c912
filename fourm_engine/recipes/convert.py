"""Implements `fourm convert`: converts a model or tokenizer to the other format, with bit-identical weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fourm_engine.convert.published import WEIGHTS
from fourm_engine.convert.tokenizers import is_tokenizer, open_tokenizer, published_modality, save_published_tokenizer
from fourm_engine.lock import at_work
from fourm_engine.model import FourM
from fourm_engine.tokenizers.store import DOCUMENT, save_tokenizer
from fourm_plugins.manager import PluginManager

Format = Literal["native", "published"]


def convert(
    source: str,
    out: Path,
    to: Format,
    *,
    domains: Sequence[str] = (),
    tokenizers: Mapping[str, str] | None = None,
    modality: str | None = None,
    providers: Mapping[str, str] | None = None,
    adapter: Path | None = None,
) -> Path:
    """Convert `source`, a folder, file or Hub id in either format; returns the path that was written.

    Args:
        out: folder to write, or for the published format a .safetensors file.
        domains: modalities of a model to keep; by default all, which must then all be available.
        tokenizers: modality -> its tokenizer, to save with a model (native).
        modality: for a published tokenizer, the installed modality that it belongs to.
        adapter: an adapter of this model, to merge into its weights.
        providers: plugin -> the distribution that provides it, where several do.

    Raises ValueError for conflicting arguments, and for a folder that holds something else."""
    native = to == "native"
    if native and out.suffix == ".safetensors":
        raise ValueError(f"{out}: native models and tokenizers are folders; give a folder")
    manager = PluginManager(providers=providers)
    target = out if out.suffix == ".safetensors" or native else out / WEIGHTS
    of_tokenizer = is_tokenizer(source)
    if of_tokenizer and (domains or tokenizers or adapter):
        raise ValueError("--domain, --tokenizer and --adapter are for models, and this is a tokenizer; leave them out")
    if modality and not of_tokenizer:
        raise ValueError("--modality is for tokenizers, and this is a model; use --domain")
    with at_work(target if native else target.parent, replaced=native):
        if of_tokenizer:
            _convert_tokenizer(source, target, modality, manager, native=native)
        else:
            options: dict[str, Any] = {"domains": domains or None, "tokenizers": tokenizers, "adapter": adapter}
            model = FourM.from_pretrained(source, device="cpu", manager=manager, **options)
            if model.missing and not domains:
                raise ValueError("; ".join(model.missing.values()))
            model.save_pretrained(target) if native else model.save_published(target)
    return target


def _convert_tokenizer(
    source: str, target: Path, modality: str | None, manager: PluginManager, *, native: bool
) -> None:
    spec = None if modality is None else published_modality(source, modality, manager).spec
    opened = open_tokenizer(source, spec, manager=manager)
    if not native:
        save_published_tokenizer(opened, target)
        return
    there = sorted(child.name for child in target.iterdir()) if target.is_dir() else []
    if there and DOCUMENT not in there:  # only replaces another tokenizer
        raise ValueError(f"{target} holds {there[0]!r} and no tokenizer; choose an empty or new folder")
    save_tokenizer(opened, target, manager=manager)

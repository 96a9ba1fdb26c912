"""Write a model or tokenizer in the other format, bit for bit the same weights: what `fourm convert` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

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
    disable: Sequence[str] = (),
    adapter: Path | None = None,
) -> Path:
    """Convert `source`, a folder, file or Hub id of either format; returns the path that was written.

    Args:
        out: folder to write; of the published format also a .safetensors file.
        domains: of a model these modalities alone; all by default, none of which may be missing.
        tokenizers: modality -> its tokenizer, to be saved with a model (native).
        modality: of a published tokenizer, the installed modality that it is for.
        adapter: an adapter of this model, which is merged into its weights.
        providers, disable: which plugins count.

    Raises ValueError for what does not fit together, and for a folder that holds something else."""
    native = to == "native"
    if native and out.suffix == ".safetensors":
        raise ValueError(f"{out}: models and tokenizers of ours are folders; give one")
    manager = PluginManager(disabled=disable, providers=providers)
    target = out if out.suffix == ".safetensors" or native else out / WEIGHTS
    of_tokenizer = is_tokenizer(source)
    if of_tokenizer and (domains or tokenizers or adapter):
        raise ValueError("--domain, --tokenizer and --adapter are for models, this is a tokenizer; leave them out")
    if modality and not of_tokenizer:
        raise ValueError("--modality is for tokenizers, and this is a model; use --domain")
    with at_work(target if native else target.parent, replaced=native):
        if of_tokenizer:
            _convert_tokenizer(source, target, modality, manager, native=native)
        else:
            model = FourM.from_pretrained(
                source,
                device="cpu",
                domains=domains or None,
                tokenizers=tokenizers,
                manager=manager,
                adapter=adapter,
            )
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
    if there and DOCUMENT not in there:  # a tokenizer replaces another, and nothing else
        raise ValueError(f"{target} holds {there[0]!r} and no tokenizer; choose a folder of its own")
    save_tokenizer(opened, target, manager=manager)

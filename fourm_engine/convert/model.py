"""Writes any model as a published checkpoint.

In: its network, vocabulary and specs. Out: `model.safetensors` and `config.json` in the published format.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from fourm_engine.convert import published, published_model
from fourm_engine.convert.tensors import SEQUENCE_ROWS, Domain
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.spec import FeatureMap, Grid, ModalitySpec


def save_published(
    path: Path,
    network: Transformer,
    vocabulary: Vocabulary,
    specs: Mapping[str, ModalitySpec],
    *,
    shorter: Collection[str],
    missing: Mapping[str, str],
    arguments: Mapping[str, Any] | None,
) -> None:
    """Write `path` (model.safetensors) and `config.json` next to it, in the published format.

    Args:
        specs: modality -> spec, for all of `vocabulary` except those in `missing`, {name: reason}.
        shorter: texts whose length is given by the plugin, not by the table of positions.
        arguments: the arguments of the published model, if this is one; they and the order of its domains are kept.

    Raises ValueError for what the format cannot express: stems, other grids, modalities without a published name or
    without an installed plugin."""
    if network.config.stem != "linear":
        stem = f"model.stem is {network.config.stem!r}"
        raise ValueError(f"{stem}; the published format has no stems; train a model with model.stem: linear for it")
    names: dict[str, str] = {}
    domains: list[Domain] = []
    for entry in vocabulary:
        if entry.name not in specs:
            raise ValueError(f"{entry.name!r} cannot be written: {missing.get(entry.name, 'its plugin is missing')}")
        spec = specs[entry.name]
        if spec.published_name is None:
            raise ValueError(f"{entry.name!r} has no published_name; the published format has no place for it")
        if spec.published_name in names:
            raise ValueError(f"{entry.name!r} and {names[spec.published_name]!r} are both {spec.published_name!r}")
        names[spec.published_name] = entry.name
        if isinstance(entry.layout, Grid) and entry.layout.height != entry.layout.width:
            raise ValueError(f"{entry.name!r}: {entry.layout.height}x{entry.layout.width} tokens; grids must be square")
        if entry.position_grid is not None:
            raise ValueError(f"{entry.name!r} was fine-tuned at another size; the format has no resized positions")
        facts = entry.layout, entry.size, entry.patch_dim, spec.input, spec.target
        domains.append(Domain(spec.published_name, *facts, rows=SEQUENCE_ROWS if entry.name in shorter else 0))
    written = published_model.arguments_of(network.config, domains, **_picture(specs.values()))
    if arguments is not None:
        kept = {d.name: d for d in domains}
        before = {
            "domains_in": [n for n in arguments["domains_in"] if n in kept and kept[n].input],
            "domains_out": [n for n in arguments["domains_out"] if n in kept and kept[n].target],
        }
        written = {**written, **arguments, **before}
    tensors = published_model.to_published(network, vocabulary, domains, names)
    published.write_checkpoint(path, tensors, written)


def _picture(specs: Iterable[ModalitySpec]) -> dict[str, int]:
    """image_size and patch_size: of the continuous modality if there is one, else of any picture."""
    pictures = [s for s in specs if isinstance(s.array, FeatureMap) and s.patch[0] > 1]
    chosen = next((s for s in pictures if s.continuous), pictures[0] if pictures else None)
    if chosen is None or not isinstance(chosen.array, FeatureMap):
        return {"image_size": 224, "patch_size": 16}
    return {"image_size": chosen.array.height, "patch_size": chosen.patch[0]}

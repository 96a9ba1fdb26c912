"""Adapt a model to grids of sizes other than in training, by interpolating positions.

In: a model and sizes in pixels. Out: a model with copies of its weights, and the same plugins with the new sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from fourm_engine.convert.domains import restrict
from fourm_engine.generate.validation import names_of
from fourm_engine.modalities import Modalities, host_of
from fourm_engine.model import FourM
from fourm_engine.nn.adapt import copy_weights
from fourm_engine.nn.transformer import Transformer
from fourm_plugins.errors import first_line
from fourm_plugins.manager import PluginError
from fourm_plugins.modality import Modality
from fourm_plugins.spec import Grid

Size = int | tuple[int, int]
SETTING = "image_size"


def resized(model: FourM, inputs: Iterable[str] | str | None, size: Size | Mapping[str, Size]) -> FourM:
    """`model` for values of another `size`: of all grids among `inputs` (None: all that it takes), or by name. The
    result reads only the inputs; other modalities may keep their shapes. Raises ValueError for an input without a size,
    and for a size that its patches do not divide or its tokenizer does not support."""
    names = names_of("inputs", model.reader.input_names if inputs is None else inputs)
    shown = {name: model.reader.instance(name, raw=True) for name in names}
    if isinstance(size, Mapping):
        if unknown := sorted(size.keys() - shown.keys()):
            raise ValueError(f"size: {unknown[0]!r} is not among the inputs: {', '.join(shown)}")
        sizes = {shown[name].name: edge for name, edge in size.items()}
    else:
        sizes = {m.name: size for m in shown.values() if isinstance(m.spec.layout, Grid)}
        if not sizes:
            raise ValueError(f"size: no grid among the inputs {', '.join(shown)}; leave it out")
    changed = {name: _of_size(model.modalities, name, edge) for name, edge in sizes.items()}
    kept = {m.name for m in shown.values()}
    modalities = Modalities(
        (changed.get(name, modality) for name, modality in model.modalities.items() if name in kept),
        {name: plugin for name, plugin in model.modalities.plugins.items() if name in kept},
        model.modalities.manager,
    )
    tokenizers = dict(model.tokenizers)
    for name in changed.keys() & tokenizers.keys():
        try:
            tokenizers[name] = tokenizers[name].for_spec(changed[name].spec)
        except ValueError as error:
            raise ValueError(f"size of {name!r}: {error}") from None
    vocabulary = model.vocabulary.resized(modality.spec for modality in changed.values())
    with torch.device("meta"):
        network = Transformer(model.network.config, vocabulary)
    network.to_empty(device=model.device)
    network.init_buffers()
    copy_weights(network, model.network)
    missing = {name: f"{name!r} is not among the inputs" for name in model.vocabulary.names if name not in kept}
    other = FourM(network.eval(), modalities, tokenizers, vocabulary, missing=missing)
    other.reader.aliases = {name: modality.name for name, modality in shown.items()}
    return other


def _of_size(modalities: Modalities, name: str, size: Size) -> Modality:
    modality = modalities[name]
    settings = modality.settings.model_dump()
    if SETTING not in settings:
        raise ValueError(f"size: {name!r} has no setting {SETTING}; leave it out")
    host, plugin = host_of(modalities), modalities.plugins[name].name
    try:
        other = host.modality(name, plugin=plugin, **{**settings, SETTING: size})
    except PluginError as error:
        raise ValueError(f"size of {name!r}: {first_line(error)}") from None
    restrict(other, modality.spec.input, modality.spec.target)
    return other

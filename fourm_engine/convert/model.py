"""Published 4M models as `FourM`, and any `FourM` as a published checkpoint.

In: a file, folder or Hub id. Out: a model whose modalities are the installed plugins that the domains belong to. Its
tokenizers are published on their own; without them the model works on token ids.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fourm_engine.convert import published
from fourm_engine.convert.absent import absent
from fourm_engine.convert.domains import match
from fourm_engine.convert.published import Domain
from fourm_engine.modalities import Modalities
from fourm_plugins.manager import PluginManager
from fourm_plugins.spec import FeatureMap, Grid, ModalitySpec
from fourm_plugins.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fourm_engine.model import FourM

log = logging.getLogger(__name__)


def load_published(
    path: Path,
    *,
    device: torch.device | str,
    domains: Iterable[str] | None = None,
    tokenizers: Mapping[str, str | Path] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    manager: PluginManager,
) -> FourM:
    """A published model from its safetensors file.

    Args:
        domains: names in the file, or ours, of those to load; the others leave no rows behind.
        tokenizers: modality -> where its tokenizer is; the others take and give token ids alone.
        settings: modality -> settings of its plugin, over those that fit the published data.

    A domain whose plugin is not installed is listed in `missing`, as an exported model's is.
    Raises ValueError: a damaged file, an unknown domain, a plugin that does not fit."""
    from fourm_engine.model import FourM
    from fourm_engine.tokenizers.neural import NeuralTokenizer

    checkpoint = published.open_checkpoint(path)
    found, missing = match(checkpoint.domains, manager, settings or {})
    names_here = {d.name for d in checkpoint.domains} | {modality.name for modality, _ in found.values()}
    if unknown := sorted((settings or {}).keys() - names_here):
        raise ValueError(f"settings: the checkpoint has no {unknown[0]!r}; it has {', '.join(sorted(names_here))}")
    if domains is not None:
        chosen, ours = list(domains), {modality.name: name for name, (modality, _) in found.items()}
        known = {d.name: d.name for d in checkpoint.domains} | ours
        if unknown := [name for name in chosen if name not in known]:
            raise ValueError(f"domains: the checkpoint has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
        wanted = {known[name] for name in chosen}
        if lacking := [name for name in missing if name in wanted]:
            raise ValueError(missing[lacking[0]])
        left_out = {
            name: f"{name!r} was left out by domains={sorted(chosen)}; load the model with it" for name in known
        }
        missing = {name: why for name, why in left_out.items() if known[name] not in wanted}
        found = {name: pair for name, pair in found.items() if name in wanted}
    else:
        for reason in missing.values():
            log.warning("%s: %s", path, reason)
    if not found:
        raise ValueError(f"{path}: {'; '.join(missing.values())}")
    names = {name: modality.name for name, (modality, _) in found.items()}
    kept = [domain for domain in checkpoint.domains if domain.name in found]
    network = published.build_network(checkpoint, kept, names).to(device)
    plugins = {modality.name: manager.find("modality", plugin) for modality, plugin in found.values()}
    modalities = Modalities([modality for modality, _ in found.values()], plugins, manager)
    loaded = given_tokenizers(modalities.token_spaces, tokenizers or {}, manager)
    for tokenizer in loaded.values():
        if isinstance(tokenizer, NeuralTokenizer):
            tokenizer.to(device)
    model = FourM(
        network,
        modalities,
        loaded,
        published.vocabulary_of(kept, names),
        missing=missing,
    )
    model.published = checkpoint.arguments
    return model


def given_tokenizers(
    spaces: Mapping[str, Sequence[ModalitySpec]], given: Mapping[str, str | Path], manager: PluginManager
) -> dict[str, Tokenizer]:
    """Modality -> tokenizer of every token space: from where `given` says, by modality or token space, or a stand-in.

    Raises ValueError for a name that needs none."""
    from fourm_engine.convert.tokenizers import open_tokenizer

    names = {spec.name for specs in spaces.values() for spec in specs}
    if unknown := sorted(given.keys() - names - spaces.keys()):
        raise ValueError(f"tokenizers: {unknown[0]!r} needs none; without one are {', '.join(sorted(names)) or 'none'}")
    tokenizers: dict[str, Tokenizer] = {}
    for space, specs in spaces.items():
        places = {str(given[name]) for name in (space, *(spec.name for spec in specs)) if name in given}
        if len(places) > 1:
            raise ValueError(
                f"tokenizers: {', '.join(s.name for s in specs)} share one, but {sorted(places)} are given"
            )
        tokenizer = open_tokenizer(places.pop(), specs, manager=manager) if places else absent(specs)
        tokenizers |= {spec.name: tokenizer.serving(spec) for spec in specs}
    return tokenizers


def save_published(model: FourM, path: Path) -> None:
    """Write `path` (model.safetensors) and `config.json` beside it, in the published format.

    A model that was published keeps its arguments, and with them the order of its domains. Raises ValueError for what
    the format cannot hold: other layouts, learned positions, modalities without a published name."""
    names: dict[str, str] = {}
    domains: list[Domain] = []
    for entry in model.vocabulary:
        if entry.name not in model.modalities:
            raise ValueError(
                f"{entry.name!r} cannot be written: {model.missing.get(entry.name, 'its plugin is missing')}"
            )
        spec = model.modalities[entry.name].spec
        if spec.published_name is None:
            raise ValueError(f"{entry.name!r} has no published_name; the published format has no place for it")
        if spec.published_name in names:
            raise ValueError(
                f"{entry.name!r} and {names[spec.published_name]!r} are both {spec.published_name!r} there"
            )
        names[spec.published_name] = entry.name
        if isinstance(entry.layout, Grid) and entry.layout.height != entry.layout.width:
            raise ValueError(
                f"{entry.name!r}: {entry.layout.height}x{entry.layout.width} tokens; grids there are square"
            )
        domains.append(Domain(spec.published_name, entry.layout, entry.size, entry.patch_dim, spec.input, spec.target))
    arguments = published.arguments_of(
        model.network.config, domains, **_picture(m.spec for m in model.modalities.values())
    )
    if model.published is not None:
        kept = {d.name: d for d in domains}
        before = {
            "domains_in": [n for n in model.published["domains_in"] if n in kept and kept[n].input],
            "domains_out": [n for n in model.published["domains_out"] if n in kept and kept[n].target],
        }
        arguments = {**arguments, **model.published, **before}
    tensors = published.to_published(model.network, model.vocabulary, domains, names)
    published.write_checkpoint(path, tensors, arguments)


def _picture(specs: Iterable[ModalitySpec]) -> dict[str, int]:
    """image_size and patch_size: of the continuous modality if there is one, else of any picture."""
    pictures = [s for s in specs if isinstance(s.array, FeatureMap) and s.patch[0] > 1]
    chosen = next((s for s in pictures if s.continuous), pictures[0] if pictures else None)
    if chosen is None or not isinstance(chosen.array, FeatureMap):
        return {"image_size": 224, "patch_size": 16}
    return {"image_size": chosen.array.height, "patch_size": chosen.patch[0]}

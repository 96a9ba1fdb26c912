"""The parts of a stored model: an exported folder, a run's folder, a Hub id, or a published checkpoint.

In: a model's location, and the plugins and tokenizers to use. Out: `Parts`, checked against each other and against
those of training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fourm_engine import exported
from fourm_engine.adapter import Adapter
from fourm_engine.convert import published, published_model
from fourm_engine.convert.absent import AbsentTokenizer, absent_tokenizers
from fourm_engine.convert.domains import fitted, match, restrict
from fourm_engine.convert.tensors import vocabulary_of
from fourm_engine.device import choose_device
from fourm_engine.exported import ExportedConfig, SavedModality
from fourm_engine.generate.validation import names_of, no_such
from fourm_engine.identity import check_identity
from fourm_engine.modalities import Modalities
from fourm_engine.nn.transformer import Transformer
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_engine.vocabulary import Vocabulary
from fourm_engine.weights import Read, read_rows
from fourm_plugins.errors import first_line
from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)
#: Settings of a modality that fine-tuning may change: those of pictures and texts that determine the number of tokens.
SIZE_SETTINGS = frozenset({"image_size", "max_tokens"})


@dataclass(frozen=True)
class Parts:
    """The parts of a model: the arguments of `FourM`, and a reader of rows of its weights."""

    network: Transformer
    modalities: Modalities
    tokenizers: dict[str, Tokenizer]
    vocabulary: Vocabulary
    missing: dict[str, str]
    published: dict[str, Any] | None
    read: Read
    origin: tuple[Path, ExportedConfig] | None = None


def load_parts(
    path_or_id: str | Path,
    *,
    device: torch.device | str | None = None,
    domains: Iterable[str] | None = None,
    disable: Iterable[str] = (),
    providers: Mapping[str, str] | None = None,
    manager: PluginManager | None = None,
    revision: str | None = None,
    tokenizers: Mapping[str, str | Path] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    adapter: str | Path | None = None,
    weights: bool = True,
) -> Parts:
    """Arguments and errors are those of `FourM.from_pretrained`. Without `weights` the network is checked against the
    file, and stays on the meta device."""
    device = choose_device(device)
    disable = names_of("disable", disable)
    if manager is not None and (disable or providers):
        raise ValueError("disable and providers are the manager's; give them to it, or leave it out")
    host = manager or PluginManager(disabled=disable, providers=providers)
    source = published.find(path_or_id)
    folder = exported.locate(path_or_id, revision=revision) if source is None else source.parent
    source = source or published.find(folder)
    if adapter is not None:
        if settings:
            raise ValueError(f"{adapter}: an adapter has its settings; leave settings out")
        parts = _adapted(Adapter(adapter), source, folder, domains, tokenizers or {}, host, freeze=manager is None)
    elif source:
        parts = _published(source, domains, tokenizers or {}, settings or {}, host, weights=weights)
    elif settings:
        raise ValueError(f"{folder}: an exported model has its settings; leave settings out")
    else:
        config = exported.read_config(folder)
        blank = None if weights else exported.checked_network(folder, config)
        parts = _exported(folder, config, domains, tokenizers or {}, host, freeze=manager is None, network=blank)
        parts = replace(parts, published=exported.published_arguments(folder))
    if weights:
        parts.network.to(device)
    for tokenizer in parts.tokenizers.values():
        tokenizer.to(device)
    return parts


def _adapted(
    adapter: Adapter,
    source: Path | None,
    folder: Path,
    domains: Iterable[str] | None,
    tokenizers: Mapping[str, str | Path],
    manager: PluginManager,
    *,
    freeze: bool,
) -> Parts:
    """The model in `folder`, or `source` if it is published, merged with an adapter."""
    adapter.check_base(source or folder / exported.WEIGHTS)
    config, known = adapter.config.model, dict[str, str]()
    if source:
        plain = {
            name: {k: v for k, v in m.settings.items() if k not in SIZE_SETTINGS}
            for name, m in config.modalities.items()
        }
        base = _published(source, list(config.modalities), {}, plain, manager).network
    else:
        saved = exported.read_config(folder)
        base, known = exported.load_network(folder, saved), saved.tokenizers
    # Those in the folder; others are passed, or absent.
    here = config.model_copy(update={"tokenizers": {k: v for k, v in config.tokenizers.items() if k in known}})
    parts = _exported(folder, here, domains, tokenizers, manager, freeze=freeze, network=adapter.merged(base))
    for name, tokenizer in parts.tokenizers.items():
        space = parts.modalities[name].spec.token_space
        wanted = config.tokenizers.get(space.name) if space is not None else None
        if not isinstance(tokenizer, AbsentTokenizer) and wanted not in (None, tokenizer.fingerprint):
            raise ValueError(f"{adapter.folder}: trained with tokenizer {wanted} of {name!r}, not with the given one")
    return parts


def _exported(
    folder: Path,
    config: ExportedConfig,
    domains: Iterable[str] | None,
    tokenizers: Mapping[str, str | Path],
    manager: PluginManager,
    *,
    freeze: bool,
    network: Transformer | None = None,
) -> Parts:
    """`network`: replaces the one in `folder`."""
    names = set(config.modalities if domains is None else names_of("domains", domains))
    if unknown := sorted(names - config.modalities.keys()):
        raise ValueError(f"domains: {no_such(unknown[0], config.modalities)}")
    instances, plugins, missing = [], {}, {}
    for name, saved in config.modalities.items():
        if name not in names:
            missing[name] = f"{name!r} was left out by domains={sorted(names)}; load the model with it"
            continue
        try:
            modality = modality_of(name, saved, manager, folder)
            plugins[name] = manager.find("modality", saved.plugin)
        except PluginError as error:
            missing[name] = _why_missing(name, saved, manager, error)
            log.warning("%s: %s", folder, missing[name])
            continue
        instances.append(modality)
    modalities = Modalities(instances, plugins, manager)
    spaces = modalities.token_spaces
    fitted = {space: specs for space, specs in spaces.items() if space in config.tokenizers}
    loaded = load_tokenizers(folder / exported.TOKENIZERS, fitted, manager, modalities=modalities)
    for name, tokenizer in loaded.items():
        space = modalities[name].spec.token_space
        assert space is not None
        if tokenizer.fingerprint != config.tokenizers.get(space.name):
            has = f"tokenizer {space.name!r} has fingerprint {tokenizer.fingerprint}"
            wanted = f"the model was trained with {config.tokenizers.get(space.name)}"
            raise ValueError(f"{folder}: {has}, but {wanted}; restore the tokenizer's files")
    unfitted = {space: specs for space, specs in spaces.items() if space not in fitted}
    loaded |= _given_tokenizers(unfitted, tokenizers, manager)
    if freeze:  # a host passed by the caller may serve further models
        manager.freeze()
    network = network or exported.load_network(folder, config)
    return Parts(
        network,
        modalities,
        loaded,
        config.build_vocabulary(),
        missing=missing,
        published=None,
        read=lambda part, name, first: read_rows(folder / exported.WEIGHTS, name, part, first),
        origin=(folder, config),
    )


def _published(
    path: Path,
    domains: Iterable[str] | None,
    tokenizers: Mapping[str, str | Path],
    settings: Mapping[str, Mapping[str, Any]],
    manager: PluginManager,
    *,
    weights: bool = True,
) -> Parts:
    """`domains`: names in the file, or ours; the others have no rows in the network."""
    checkpoint = published_model.open_checkpoint(path)
    matched, missing = match(checkpoint.domains, manager, settings)
    names_here = {d.name for d in checkpoint.domains} | {modality.name for modality, _ in matched.values()}
    if unknown := sorted(settings.keys() - names_here):
        raise ValueError(f"settings: the checkpoint has no {unknown[0]!r}; it has {', '.join(sorted(names_here))}")
    if domains is not None:
        chosen, ours = list(domains), {modality.name: name for name, (modality, _) in matched.items()}
        known = {d.name: d.name for d in checkpoint.domains} | ours
        if unknown := [name for name in chosen if name not in known]:
            raise ValueError(f"domains: the checkpoint has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
        wanted = {known[name] for name in chosen}
        if lacking := [name for name in missing if name in wanted]:
            raise ValueError(missing[lacking[0]])
        left_out = {name: f"{name!r} was left out by domains={sorted(chosen)}; load with it" for name in known}
        missing = {name: why for name, why in left_out.items() if known[name] not in wanted}
        matched = {name: pair for name, pair in matched.items() if name in wanted}
    else:
        for reason in missing.values():
            log.warning("%s: %s", path, reason)
    if not matched:
        raise ValueError(f"{path}: {'; '.join(missing.values())}")
    names = {name: modality.name for name, (modality, _) in matched.items()}
    kept = fitted(checkpoint.domains, matched)
    network = (published_model.build_network if weights else published_model.blank_network)(checkpoint, kept, names)
    plugins = {modality.name: manager.find("modality", plugin) for modality, plugin in matched.values()}
    modalities = Modalities([modality for modality, _ in matched.values()], plugins, manager)
    loaded = _given_tokenizers(modalities.token_spaces, tokenizers, manager)
    return Parts(
        network,
        modalities,
        loaded,
        vocabulary_of(kept, names),
        missing=missing,
        published=checkpoint.arguments,
        read=published_model.reader(checkpoint, network, kept, names),
    )


def modality_of(name: str, saved: SavedModality, manager: PluginManager, folder: Path) -> Modality[Any]:
    """The modality that a model in `folder` was trained with. Raises PluginError if its plugin cannot be used, and
    ValueError if it now creates a different one."""
    modality = manager.modality(name, plugin=saved.plugin, **saved.settings)
    now = manager.find("modality", saved.plugin)
    restrict(modality, saved.spec.input, saved.spec.target)
    if differences := exported.spec_differences(saved.spec, modality.spec):
        raise ValueError(
            f"modality {name!r} is not what the model was trained with ({saved.distribution} {saved.version}, "
            f"now {now.distribution} {now.version}): {'; '.join(differences)}. Install "
            f"{saved.distribution}=={saved.version}, or leave it out with domains="
        )
    where = f"{folder}: {name!r} made by {saved.distribution} {saved.version}"
    check_identity(saved.identity, modality, where=where, remedy="leave it out with domains=")
    return modality


def _given_tokenizers(
    spaces: Mapping[str, Sequence[ModalitySpec]], given: Mapping[str, str | Path], manager: PluginManager
) -> dict[str, Tokenizer]:
    """Modality -> tokenizer for every token space: from the location in `given`, by modality or token space, or a
    stand-in."""
    names = {spec.name for specs in spaces.values() for spec in specs}
    if unknown := sorted(given.keys() - names - spaces.keys()):
        raise ValueError(f"tokenizers: {unknown[0]!r} needs none; without one: {', '.join(sorted(names)) or 'none'}")
    tokenizers: dict[str, Tokenizer] = {}
    for space, specs in spaces.items():
        sources = {str(given[name]) for name in (space, *(spec.name for spec in specs)) if name in given}
        if len(sources) > 1:
            raise ValueError(f"tokenizers: {', '.join(s.name for s in specs)} share one; given are {sorted(sources)}")
        if sources:
            from fourm_engine.convert.tokenizers import open_tokenizer  # lazy: it imports every published kind

            tokenizer = open_tokenizer(sources.pop(), specs, manager=manager)
        else:
            tokenizer = absent_tokenizers(specs)
        tokenizers |= {spec.name: tokenizer.for_spec(spec) for spec in specs}
    return tokenizers


def _why_missing(name: str, saved: SavedModality, manager: PluginManager, error: PluginError) -> str:
    if all((p.kind, p.name) != ("modality", saved.plugin) for p in manager.plugins):
        plugin = f"its plugin ({saved.distribution} {saved.version})"
        return f"the model knows {name!r}, but {plugin} is not installed: pip install {saved.distribution}"
    return f"the model knows {name!r}, but its plugin cannot be used: {first_line(error)}"

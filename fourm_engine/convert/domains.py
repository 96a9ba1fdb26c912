"""Matches the domains of a published checkpoint with installed plugins.

In: the domains of a file and the plugin host. Out: for each domain, an instance of the modality with that
`published_name`, with settings that fit the file; or the reason why there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fourm_engine.convert.tensors import Domain
from fourm_plugins.errors import first_line
from fourm_plugins.manager import PluginError, PluginManager, distribution_hint
from fourm_plugins.modality import Modality
from fourm_plugins.spec import Grid, ModalitySpec, Sequence

_SUFFIX = re.compile(r"@(\d{1,5})$")


def match(
    domains: Iterable[Domain], manager: PluginManager, settings: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, tuple[Modality, str]], dict[str, str]]:
    """({domain: (modality, entry point)}, {domain: reason why it is missing}).

    `settings`: domain or modality name -> settings of the plugin, over its `published_settings` and those that fit the
    file. The first domain of a plugin gets the plugin's name; further ones, at other sizes, have the size appended.
    Raises ValueError if a plugin's domain differs in shape from the file's, or if two plugins provide one domain."""
    matched: dict[str, tuple[Modality, str]] = {}
    missing: dict[str, str] = {}
    taken: set[str] = set()
    for domain in domains:
        matches, failures = [], []
        for plugin in manager.plugins:
            if plugin.kind != "modality" or plugin.state != "ok":
                continue
            name = plugin.name if plugin.name not in taken else _further(plugin.name, domain.name)
            given = settings.get(domain.name, settings.get(name, {}))
            try:
                cls = manager.modality_class(plugin.name)
                chosen = {**_lengths(domain, cls), **cls.published_settings, **_settings(domain, cls), **given}
                modality = manager.modality(name, plugin=plugin.name, **chosen)
            except PluginError as error:
                failures.append(f"{plugin.name}: {first_line(error)}")
                continue
            if modality.spec.published_name == domain.name:
                matches.append((modality, plugin.name))
        if len(matches) > 1:
            names = ", ".join(name for _, name in matches)
            raise ValueError(f"{domain.name!r} is provided by several plugins: {names}; disable all but one")
        if not matches:
            missing[domain.name] = _why(domain.name, failures)
            continue
        modality, plugin_name = matches[0]
        if differences := _differences(domain, modality.spec):
            what = f"{domain.name!r} does not fit modality {modality.name!r}: {'; '.join(differences)}"
            raise ValueError(f"{what}; give the plugin other settings, or leave it out with domains=")
        restrict(modality, domain.input, domain.target)
        matched[domain.name] = modality, plugin_name
        taken.add(modality.name)
    return matched, missing


def fitted(domains: Iterable[Domain], matched: Mapping[str, tuple[Modality, str]]) -> list[Domain]:
    """The domains that have a modality, with its length of texts and patches of pixels."""
    specs = {name: modality.spec for name, (modality, _) in matched.items()}
    return [replace(d, layout=s.layout, patch=s.pixel_patch) for d in domains if (s := specs.get(d.name)) is not None]


def restrict(modality: Modality, is_input: bool, is_target: bool) -> None:
    """Restricts a modality to the roles, input or target, that the model was trained for."""
    spec = modality.spec
    offered = {"input": spec.input and is_input, "target": spec.target and is_target}
    if offered != {"input": spec.input, "target": spec.target}:
        modality.spec = spec.model_copy(update=offered)


def _lengths(domain: Domain, cls: type[Modality]) -> dict[str, Any]:
    """The maximum number of tokens that the file has positions for; the length of its texts is known only to the
    plugin."""
    known = isinstance(domain.layout, Sequence) and "max_tokens" in cls.Settings.model_fields
    return {"max_tokens": domain.layout.num_tokens} if known else {}


def _settings(domain: Domain, cls: type[Modality]) -> dict[str, Any]:
    """The settings of a plugin that make its spec fit the file."""
    fields = cls.Settings.model_fields
    size = _SUFFIX.search(domain.name)
    settings: dict[str, Any] = {}
    if size and isinstance(domain.layout, Grid):
        settings = {"image_size": int(size[1]), "patch_size": max(1, int(size[1]) // domain.layout.height)}
    if domain.size:
        settings |= {"codebook_size": domain.size, "text": {"vocabulary_size": domain.size}}
    return {name: value for name, value in settings.items() if name in fields}


def _further(plugin: str, domain: str) -> str:
    suffix = domain.partition("@")[2] or "again"
    return f"{plugin}_{suffix}" if "@" in plugin else f"{plugin}@{suffix}"


def _differences(domain: Domain, spec: ModalitySpec) -> list[str]:
    size = spec.token_space.size if spec.token_space else 0
    texts = isinstance(domain.layout, Sequence) and isinstance(spec.layout, Sequence)  # of any length
    facts = [
        ("layout", spec.layout if texts else domain.layout, spec.layout),
        ("ids", domain.size, size),
        ("numbers a patch", domain.patch_dim, spec.patch_dim),
    ]
    return [f"{what} {there} in the file, {here} here" for what, there, here in facts if there != here]


def _why(name: str, failures: list[str]) -> str:
    hint = distribution_hint(name.removeprefix("tok_"))
    reason = f" ({'; '.join(failures)})" if failures else ""
    return (
        f"the checkpoint knows {name!r}, but no installed plugin provides it{reason}: install the package whose "
        f"modality has published_name {name!r} (pip install {hint}), or load a part with domains=[…]"
    )

"""The identity of a modality: the settings that determine its ids and their decoding. Tokenizers, token shards,
checkpoints and exports store it; a single error lists all differences from the current config.

In: a stored `Modality.identity()`. Out: nothing, or a ValueError that names the file, the setting, its old and new
value, and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fourm_plugins.counting import some
from fourm_plugins.modality import Modality
from fourm_plugins.settings import flat_settings

#: Entries of a stored identity that follow from the settings and the plugin's release.
_DERIVED = ("spec.", "ids_version")
#: Prefix of the keys of modalities' settings in a config.
PREFIX = "modalities.settings."
#: The key of the tokenizer recipe's settings in an identity.
RECIPE = "spec.tokenizer.settings"
_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """One value that has changed since the identity was stored; "not set" if there is, or was, none."""

    key: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.key} was {self.was}, is {self.now}"


def digest(identity: Mapping[str, Any]) -> str:
    """Hex digest of an identity; equal in every process."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def facts(modality: Modality) -> dict[str, Any]:
    """The identity of a modality as {full key in a config: value}."""
    return {_named(path, modality): value for path, value in modality.identity().items()}


def defaults(modality: Modality) -> dict[str, Any]:
    """The default of each setting that has one, keyed as in `facts`; used for settings that were not stored."""
    return {_named(path, modality): value for path, value in _defaults(modality).items()}


def differences(
    stored: Mapping[str, Any], modality: Modality, *, ignore: Collection[str] = (), only: str = ""
) -> list[Difference]:
    """How a modality differs from `stored`, its earlier identity. A setting that `stored` lacks, because the plugin's
    release was older, counts as its default. Derived values are omitted if settings differ.

    Args:
        ignore: settings that may differ, including everything below and derived from them.
        only: the prefix of the paths to compare."""
    now = {path: value for path, value in modality.identity().items() if path.startswith(only)}
    was = {path: value for path, value in stored.items() if path.startswith(only)}
    was = {path: value for path, value in _defaults(modality).items() if path in now} | was
    # A picture of another size has another spec, which the caller handles.
    left_out = (*ignore, "spec") if ignore else ()
    changed = {path: pair for path, pair in compare(was, now).items() if path.partition(".")[0] not in left_out}
    settings = {path: pair for path, pair in changed.items() if not path.startswith(_DERIVED)} or changed
    return [Difference(_named(path, modality), *pair) for path, pair in settings.items()]


def compare(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Key -> (old, new), formatted, for all values that differ, sorted by key."""
    changed = {}
    for key in now.keys() | was.keys():
        before, after = was.get(key, _ABSENT), now.get(key, _ABSENT)
        if before == after:
            continue
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            at = next(i for i in range(len(before)) if before[i] != after[i])  # a long list would hide the difference
            key, before, after = f"{key}.{at}", before[at], after[at]
        changed[key] = _shown(before), _shown(after)
    return dict(sorted(changed.items()))


def check_identity(
    stored: Mapping[str, Any], modality: Modality, *, where: Path | str, remedy: str, ignore: Collection[str] = ()
) -> None:
    """Raise ValueError if `modality` differs from its identity when `where` was made.

    remedy: an alternative to restoring the settings, such as "remove tokens/ and run `fourm tokenize` again"."""
    refuse(differences(stored, modality, ignore=ignore), where=where, remedy=remedy)


def refuse(changed: Sequence[Difference], *, where: Path | str, remedy: str) -> None:
    """Raise ValueError for differences, if there are any."""
    if not changed:
        return
    released = all(difference.key.startswith(_DERIVED) for difference in changed)
    restore = "install the plugin's earlier release" if released else f"restore {'it' if len(changed) == 1 else 'them'}"
    raise ValueError(f"{where}: {some(changed, '; ')}; {restore}, or {remedy}")


def _defaults(modality: Modality) -> dict[str, Any]:
    defaults = flat_settings(type(modality.settings).model_construct())
    for name, value in modality.settings:
        for number, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
            if isinstance(item, BaseModel):
                defaults |= flat_settings(type(item).model_construct(), f"{name}.{number}.")
    return defaults


def _named(path: str, modality: Modality) -> str:
    if path.startswith(RECIPE):  # by the setting that it follows from, if there is one
        ending = path.removeprefix(RECIPE)
        path = next((p for p in flat_settings(modality.settings) if f".{p}".endswith(ending)), path)
    return f"{path} of {modality.name}" if path.startswith(_DERIVED) else f"{PREFIX}{modality.name}.{path}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}…"

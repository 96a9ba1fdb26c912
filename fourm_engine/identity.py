"""The identity of a modality: the settings that decide its ids and what they decode to. Tokenizers, token shards,
checkpoints and exports store it; one error names the differences from the current config.

In: `Modality.identity()`, stored when something was made. Out: nothing, or a ValueError that names the file, the
setting, what it was and is, and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm_plugins.counting import some
from fourm_plugins.modality import Modality
from fourm_plugins.settings import flat_settings

#: Of a stored identity, facts that follow from the settings and the plugin's release.
_DERIVED = ("spec.", "ids_version")
#: How the keys of modalities' settings begin in a config.
PREFIX = "modalities.settings."
#: Of an identity, where the settings of the tokenizer's recipe are.
RECIPE = "spec.tokenizer.settings"
_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """One value that has changed since something was made; "not set" if there is, or was, none."""

    key: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.key} was {self.was}, is {self.now}"


def digest(identity: Mapping[str, Any]) -> str:
    """Hex digest of an identity; equal in every process."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def facts(modality: Modality) -> dict[str, Any]:
    """The identity of a modality, each value by the full name of its key in a config."""
    return {_named(path, modality): value for path, value in modality.identity().items()}


def defaults(modality: Modality) -> dict[str, Any]:
    """The default of each setting that has one, named as in `facts`; a setting that was not stored counts as that."""
    return {_named(path, modality): value for path, value in _defaults(modality).items()}


def differences(
    stored: Mapping[str, Any], modality: Modality, *, ignore: Collection[str] = (), only: str = ""
) -> list[Difference]:
    """How a modality differs from `stored`, its earlier identity. A setting that `stored` lacks, because the plugin's
    release was older, counts as its default. What follows from settings is left out where settings differ.

    Args:
        ignore: settings, with all that lies below and what follows from them, that may differ.
        only: how the paths that are compared begin."""
    now = {path: value for path, value in modality.identity().items() if path.startswith(only)}
    was = {path: value for path, value in stored.items() if path.startswith(only)}
    was = {path: value for path, value in _defaults(modality).items() if path in now} | was
    # A picture of another size has another spec, which the caller judges.
    left_out = (*ignore, "spec") if ignore else ()
    changed = {path: pair for path, pair in compare(was, now).items() if path.partition(".")[0] not in left_out}
    settings = {path: pair for path, pair in changed.items() if not path.startswith(_DERIVED)} or changed
    return [Difference(_named(path, modality), *pair) for path, pair in settings.items()]


def compare(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Key -> (was, is), ready to be shown, of all values that differ, sorted by key."""
    changed = {}
    for key in now.keys() | was.keys():
        before, after = was.get(key, _ABSENT), now.get(key, _ABSENT)
        if before == after:
            continue
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            at = next(i for i in range(len(before)) if before[i] != after[i])  # a long list would hide where it differs
            key, before, after = f"{key}.{at}", before[at], after[at]
        changed[key] = _shown(before), _shown(after)
    return dict(sorted(changed.items()))


def check_identity(
    stored: Mapping[str, Any], modality: Modality, *, where: Path | str, remedy: str, ignore: Collection[str] = ()
) -> None:
    """Raise ValueError where `modality` is not what it was when `where` was made.

    remedy: what to do beside restoring the settings, such as "remove tokens/ and run `fourm tokenize` again"."""
    refuse(differences(stored, modality, ignore=ignore), where=where, remedy=remedy)


def refuse(changed: Sequence[Difference], *, where: Path | str, remedy: str) -> None:
    """Raise ValueError for differences, if there are any."""
    if not changed:
        return
    released = all(difference.key.startswith(_DERIVED) for difference in changed)
    restore = "install the plugin's earlier release" if released else f"restore {'it' if len(changed) == 1 else 'them'}"
    raise ValueError(f"{where}: {some(changed, '; ')}; {restore}, or {remedy}")


def _defaults(modality: Modality) -> dict[str, Any]:
    return flat_settings(type(modality.settings).model_construct())


def _named(path: str, modality: Modality) -> str:
    if path.startswith(RECIPE):  # by the setting that it follows from, where there is one
        ending = path.removeprefix(RECIPE)
        path = next((p for p in flat_settings(modality.settings) if f".{p}".endswith(ending)), path)
    return f"{path} of {modality.name}" if path.startswith(_DERIVED) else f"{PREFIX}{modality.name}.{path}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}…"

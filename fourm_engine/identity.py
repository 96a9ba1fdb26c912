"""What decides the ids of a modality and what they decode to, as tokenizers, token shards, checkpoints and exports carry
it, and the one error where what is stored and what is configured differ.

In: `Modality.identity()`, stored when something was made. Out: nothing, or a ValueError that names the file, the
setting, what it was and is, and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm_plugins.modality import Modality, flat_settings

#: Of a stored identity, facts that follow from the settings and the plugin's release.
_DERIVED = ("spec.", "ids_version")
#: Of an identity, where the settings of the tokenizer's recipe are.
RECIPE = "spec.tokenizer.settings"
_SHOWN = 5  # differences in a message
_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """One value that was another when something was made; "not set" where there is, or was, none."""

    key: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.key} was {self.was}, is {self.now}"


def digest(identity: Mapping[str, Any]) -> str:
    """Hex digest of an identity; equal in every process."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def differences(
    stored: Mapping[str, Any], modality: Modality, *, ignore: Collection[str] = (), only: str = ""
) -> list[Difference]:
    """What a modality has otherwise than `stored`, its identity of before. A setting that `stored` lacks, since the
    plugin's release was older, counts by its default. What follows from settings is left out where settings differ.

    Args:
        ignore: settings, with all that lies below and what follows from them, that may differ.
        only: how the paths that are compared begin."""

    now, defaults = modality.identity(), flat_settings(type(modality.settings).model_construct())

    def named(path: str) -> str:
        if path.startswith(RECIPE):  # by the setting that it follows from, where there is one
            ending = path.removeprefix(RECIPE)
            path = next((p for p in settings_now if f".{p}".endswith(ending)), path)
        return path if path.startswith(_DERIVED) else f"modalities.settings.{modality.name}.{path}"

    settings_now = [path for path in now if not path.startswith(_DERIVED)]
    stored, now = ({k: v for k, v in side.items() if k.startswith(only)} for side in (stored, now))
    stored = {key: value for key, value in defaults.items() if key in now} | dict(stored)
    found = {path: pair for path, pair in compare(stored, now).items() if path.partition(".")[0] not in ignore}
    if ignore:  # a picture of another size has another spec, which the caller judges
        found = {path: pair for path, pair in found.items() if not path.startswith("spec.")}
    settings = [path for path in found if not path.startswith(_DERIVED)]
    return [Difference(named(path), *found[path]) for path in settings or found]


def compare(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Key -> (was, is), ready to be shown, of all values that differ."""
    found = {}
    for key in now.keys() | stored.keys():
        was, is_ = stored.get(key, _ABSENT), now.get(key, _ABSENT)
        if was == is_:
            continue
        if isinstance(was, list) and isinstance(is_, list) and len(was) == len(is_):
            at = next(i for i in range(len(was)) if was[i] != is_[i])  # a long list would hide where it differs
            key, was, is_ = f"{key}.{at}", was[at], is_[at]
        found[key] = _shown(was), _shown(is_)
    return dict(sorted(found.items()))


def check_identity(
    stored: Mapping[str, Any], modality: Modality, *, where: Path | str, remedy: str, ignore: Collection[str] = ()
) -> None:
    """Raise ValueError where `modality` is not what it was when `where` was made.

    remedy: what to do beside restoring the settings, such as "remove tokens/ and run `fourm tokenize` again"."""
    refuse(differences(stored, modality, ignore=ignore), modality.name, where=where, remedy=remedy)


def refuse(found: Iterable[Difference], what: str, *, where: Path | str, remedy: str) -> None:
    """Raise ValueError for differences of `what`, if there are any."""
    found = list(found)
    if not found:
        return
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    listed = "; ".join(map(str, found[:_SHOWN]))
    released = all(difference.key.startswith(_DERIVED) for difference in found)
    restore = "install the plugin's earlier release" if released else "restore it" if len(found) == 1 else "restore them"
    raise ValueError(f"{where}: made with another {what}: {listed}{more}; {restore}, or {remedy}")


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}…"

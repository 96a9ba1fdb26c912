"""Documents: files about all samples of a modality, such as the names of its classes, that provide settings.

In: the folders of data sets. Out: settings of modalities that the config leaves unset; contradictions are reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fourm_engine.data.raw.names import say, shown
from fourm_engine.files import write_atomically
from fourm_engine.modalities import Modalities
from fourm_plugins.activation import run
from fourm_plugins.discovery import Plugin
from fourm_plugins.modality import Modality

MAX_BYTES = 1 << 20


def documented(
    modalities: Modalities, given: Mapping[str, Mapping[str, Any]], folders: Iterable[Path]
) -> dict[str, dict[str, Any]]:
    """Modality -> settings from the documents in the first of `folders` that has any, unless `given` already sets one
    of them."""
    folders, chosen = list(folders), dict[str, dict[str, Any]]()
    for name, modality in modalities.items():
        for folder in folders:
            candidates = [folder / modality.spec.source, folder / name, folder]
            settings, where = read_documents(type(modality), modalities.plugins[name], candidates)
            said = {key: given.get(name, {})[key] for key in settings if key in given.get(name, {})}
            for key, value in said.items():
                if _plain(value) != _plain(settings[key]):
                    setting, other = f"modalities.settings.{name}.{key}", _short(settings[key])
                    say(f"{setting} is {_short(value)}, which counts, but {where} says {other}")
            if settings:
                chosen |= {} if said else {name: settings}
                break
    return chosen


def read_documents(cls: type[Modality], plugin: Plugin, folders: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """(settings from the first document of a modality in one of `folders`, its path). An unusable one is reported."""
    for path in (folder / name for name in cls.documents for folder in folders):
        try:
            if (content := _content(path)) is not None:
                read = partial(cls.settings_from_document, path.name, content)
                return dict(run(plugin, "asked about a document", read)), shown(path)
        except (OSError, ValueError) as error:
            say(f"{shown(path)}: not used: {error}")
    return {}, ""


def copy_documents(modality: Modality, root: Path, folder: Path) -> None:
    """Copy the documents to `folder`, with the tokens of a modality, in case the raw data is removed later."""
    for name in modality.documents:
        for path in (root / modality.spec.source / name, root / name):
            try:
                content = _content(path)
            except (OSError, ValueError):
                continue  # reported on use
            if content is not None:
                if not (folder / name).is_file() or (folder / name).read_bytes() != content:
                    write_atomically(folder / name, content)
                break


def _content(path: Path) -> bytes | None:
    """The bytes of a document; None if there is no such file. Raises ValueError, OSError."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return path.read_bytes()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = repr(_plain(value))
    return text if len(text) <= 60 else f"{text[:60]}…"

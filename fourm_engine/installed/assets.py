"""Checks what a config needs besides packages: data, files that tokenizers name, fitted tokenizers.

In: a config and its plugin host. Out: `Check`s, and the modalities that take part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from fourm_engine.data.raw.available import in_shards, indexed
from fourm_engine.data.raw.pipes import open_root
from fourm_engine.data.raw.root import PIPE, DataRoot
from fourm_engine.data.sets import all_sets
from fourm_engine.installed.doctor import Check
from fourm_engine.storage.location import Location
from fourm_engine.tokenizers.store import load_tokenizer, read_document
from fourm_plugins.errors import first_line
from fourm_plugins.explain import explain
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality

if TYPE_CHECKING:
    from fourm_engine.recipes.config import RunConfig


def check_assets(config: RunConfig, manager: PluginManager) -> Iterator[Check]:
    try:
        modalities = config.load_modalities(manager)
    except ValueError as error:
        yield Check("modalities", "bad", first_line(error), "see the plugins above, or change the config")
        return
    yield Check("modalities", "ok", f"{', '.join(modalities)} take part")
    for one in all_sets(config.data, modalities):
        what, folder = one.key, one.folder
        if folder is None:
            continue
        if str(folder).startswith(PIPE):
            yield Check(what, "ok", f"{folder}: run when its data is needed")
            continue
        try:
            sources = _sources(open_root(folder, config.data, manager), one.modalities.values())
        except ValueError as error:
            yield Check(what, "bad", first_line(error), f"correct this, or set {what}")
            continue
        if sources:
            yield Check(what, "ok", f"{folder}: {', '.join(sources)}")
        else:
            yield Check(what, "bad", f"{folder}: no data of any modality", f"put data there, or set {what}")
    for space, specs in modalities.token_spaces.items():
        yield from _check_tokenizer(space, [modalities[spec.name] for spec in specs], config.tokenizers.folder, manager)


def _sources(root: DataRoot, modalities: Collection[Modality]) -> list[str]:
    """The sources that a data set has data for. Raises ValueError for a data set that cannot be read."""
    folder = root.folder
    names = indexed(folder) if isinstance(folder, Location) else in_shards(root, modalities)
    there = {m.spec.source for m in modalities if m.name in names}
    if isinstance(folder, Path):
        there |= {m.spec.source for m in modalities if (folder / m.spec.source).is_dir()}
    return sorted(there)


def _check_tokenizer(space: str, members: list[Modality], folder: Path, manager: PluginManager) -> Iterator[Check]:
    name, recipe = f"tokenizer {space}", members[0].spec.tokenizer
    assert recipe is not None
    try:
        cls = manager.tokenizer_class(recipe.kind)
        settings = cls.Settings(**recipe.settings)
    except ValidationError as error:
        yield Check(name, "bad", "; ".join(explain(error, cls.Settings)), "change the modality's settings")
        return
    except ValueError as error:
        yield Check(name, "bad", first_line(error), "see the plugins above")
        return
    for key, path in _paths(settings):
        there = path.exists()
        detail = f"{key} is {path}" + ("" if there else ", which is not there")
        yield Check(f"{name}, {key}", "ok" if there else "bad", detail, "" if there else "fetch it, or change the path")
    try:
        document = read_document(folder / space)
        if document is None:
            yield Check(name, "note", f"{recipe.kind}, not fitted yet in {folder / space}", "fourm tokenizer fit")
            return
        tokenizer = load_tokenizer(folder / space, [m.spec for m in members], manager, modalities=members)
    except ValueError as error:
        yield Check(name, "bad", first_line(error), "fourm tokenizer fit")
        return
    yield Check(name, "ok", f"{recipe.kind}, loaded from {folder / space}, fingerprint {tokenizer.fingerprint[:12]}")


def _paths(settings: BaseModel) -> Iterator[tuple[str, Path]]:
    """Settings that name a file or folder."""
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if isinstance(value, Path):
            yield key, value

"""Finds the modalities that have data in a folder, and files there that look like data but are in no modality's
folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.index import FILE, INDEX, MAX_BYTES
from fourm_engine.data.raw.local_sources import root_shards
from fourm_engine.data.raw.names import is_archive, is_litter, shown, split
from fourm_engine.data.raw.notes import Note
from fourm_engine.data.raw.root import DataRoot
from fourm_engine.modalities import Modalities
from fourm_engine.storage.errors import Missing, StoreError
from fourm_engine.storage.location import Location
from fourm_plugins.modality import Modality

log = logging.getLogger(__name__)


def with_data(
    modalities: Modalities, roots: Iterable[DataRoot], readers: Sequence[Mapping[str, Modality]] = ()
) -> Modalities:
    """Those of `modalities` that have a folder in one of `roots` (raw data by source, tokens by name), or members in
    its tars; the others are reported. Implements `select: installed`.

    readers: for each root, the modalities that have a different source there. Raises ValueError if none has data."""
    roots = list(roots)
    reading = [modalities | dict(of) for of in readers or [modalities] * len(roots)]
    remote = [root.folder for root in roots if isinstance(root.folder, Location)]
    local = [(root.folder, of) for root, of in zip(roots, reading) if isinstance(root.folder, Path)]
    shards = (in_shards(root, of.values()) for root, of in zip(roots, reading))
    inside = set[str]().union(*shards, *map(indexed, remote))
    kept, without = list[Modality](), list[str]()
    for name, modality in modalities.items():
        if name in inside or any((f / part).is_dir() for f, of in local for part in (of[name].spec.source, name)):
            kept.append(modality)
        else:
            without.append(name if modality.spec.source == name else f"{name} (folder {modality.spec.source})")
    where = " or ".join(shown(root.folder) for root in roots)
    if without and kept:
        log.warning("no data in %s, so left out: %s", where, ", ".join(without))
    if not kept:
        stray = (note.text for folder, of in local if folder.is_dir() for note in stray_data(folder, of.values()))
        looked = ", ".join(sorted({modality.spec.source for modality in modalities.values()}))
        what = f"no data of any installed modality in {where}; looked for the folders {looked}"
        raise ValueError("; ".join((what, *stray)))
    plugins = {modality.name: modalities.plugins[modality.name] for modality in kept}
    return Modalities(kept, plugins, modalities.manager)


def in_shards(root: DataRoot, modalities: Iterable[Modality]) -> set[str]:
    """Names of the modalities that have members in the tars of a root, or files in data opened by a package. Raises
    ValueError for unusable data."""
    if isinstance(root.folder, Location) or (isinstance(root.folder, Path) and not root.folder.is_dir()):
        return set()
    if isinstance(root.folder, Path) and not (root_shards(root.folder) if root.shards is None else root.shards):
        return set()
    specs = [modality.spec for modality in modalities]
    there = open_catalogue(root.folder, specs, shards=root.shards)
    for note in there.notes:
        if note.kind == "unclear":  # otherwise no command would report these
            log.warning("%s", note)
    return {spec.name for spec in specs if spec.files in there.sources}


def indexed(folder: Location) -> set[str]:
    """Names of the modalities of a remote folder, of raw data or of tokens, according to its index; none without an
    index. Raises StoreError."""
    path = folder / INDEX / FILE
    try:
        document = json.loads(path.read_bytes(MAX_BYTES))
        if "modalities" in document:  # of tokens
            return set(map(str, document["modalities"]))
        views = [(claim, there) for view in document["views"] for claim, there in zip(view["claims"], view["folders"])]
        shards = {str(shard[0]).partition("/")[0] for shard in document["shards"]}
        having = [names for (source, _, names), there in views if there is not None or source in shards]
        return {str(name) for names in having for name in names}
    except Missing:
        return set()
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error!s:.80}); make the index again, and upload it") from None


def stray_data(root: Path, modalities: Iterable[Modality]) -> list[Note]:
    """Notes on entries of `root` that look like data but are in no modality's folder: compressed archives, loose files,
    folders with nearly the right name."""
    specs = [modality.spec for modality in modalities]
    whole = [spec for spec in specs if spec.source == "."]  # which read the folder itself
    inside = sorted({e for spec in whole for e in spec.extensions})
    extensions = sorted({e for spec in specs for e in spec.extensions})
    sources = sorted({spec.source for spec in specs})
    names = [name for name in os.listdir(root) if not is_litter(name)]
    archives = sorted(name for name in names if is_archive(name))
    loose = (name for name in names if name != "splits.json" and split(name, inside) is None)
    files = sorted(name for name in loose if split(name, extensions) is not None)
    folders = ", ".join(f"{source}/" for source in sources if source != ".")
    notes, where = list[Note](), shown(root)
    if archives:
        remedy = (
            f"a folder for each modality ({folders}), as files or .tar shards, or in plain .tar shards that hold all"
        )
        some = f"{len(archives)}, such as {shown(archives[0])}"
        notes.append(Note("archive", where, f"left out archives in the folder itself: {some}; data lies in {remedy}"))
    if files:
        remedy = f"move them into the folder of their modality ({folders})"
        some = f"{len(files)}, such as {shown(files[0])}"
        notes.append(Note("left out", where, f"left out files in the folder itself: {some}; {remedy}"))
    for source in sources:
        alike = [n for n in names if n not in sources and n.casefold().rstrip("s") == source.casefold().rstrip("s")]
        if source not in names and alike:
            text = f"the folder {shown(min(alike))} is not read; {source} is looked for"
            notes.append(Note("misnamed", where, text))
    return notes

"""Opens a data set: through its index if that is up to date, otherwise by scanning what has changed.

In: a root folder and the claims of its modalities. Out: a `Catalogue`: the samples, and the source of each modality. A
large data set is indexed as a side effect, if it is writable; `fourm data index` does so for any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourm_engine.data.columns import OtherVersion
from fourm_engine.data.names_table import NameTable
from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.index import INDEX, Damaged, DataIndex, View
from fourm_engine.data.raw.indexed import indexed_sources, renamed
from fourm_engine.data.raw.local_sources import LocalSources, root_shards
from fourm_engine.data.raw.names import inform, say, shown
from fourm_engine.data.raw.notes import Note
from fourm_engine.data.raw.plugin_root import PluginRoot, open_plugin_root
from fourm_engine.data.raw.reindex import Scans, fresh, write_index
from fourm_engine.data.raw.root import Root
from fourm_engine.data.raw.sample_shards import Claim, Key, claims_of
from fourm_engine.data.raw.source import Source
from fourm_engine.device import rank_and_world
from fourm_engine.lock import Busy, at_work
from fourm_engine.storage.errors import Missing, StoreError
from fourm_engine.storage.location import Location
from fourm_plugins.counting import counted
from fourm_plugins.spec import ModalitySpec

log = logging.getLogger(__name__)
#: Number of files and members from which on a data set is indexed automatically: a smaller one is scanned in under a
#: second.
MANY = 10_000


@dataclass
class Catalogue:
    """The samples of the data set in `root`."""

    root: Root
    names: NameTable
    sources: dict[Key, Source]
    #: bool (samples,), which have a file.
    present: dict[Key, np.ndarray]
    #: What was skipped in the root itself.
    notes: list[Note]


def open_catalogue(
    root: Root,
    specs: Iterable[ModalitySpec],
    *,
    shards: Sequence[str] | None = None,
    max_bytes: int = MAX_FILE_BYTES,
    index: bool | None = None,
    print_fn: Callable[[str], None] | None = None,
) -> Catalogue:
    """Open `root`.

    Args:
        shards: the tars in the root to read; None: all.
        index: whether to write the index; None: if there is one already, or the data set is large.
        print_fn: called with each line about what was scanned; None: log them.

    Raises ValueError for what cannot be trusted, and, if `index` is true, Busy and CannotWrite."""
    specs = list(specs)
    claims = claims_of(specs)
    chosen = None if shards is None else sorted(shards)
    if isinstance(root, PluginRoot):
        names, sources, present, notes = open_plugin_root(root, claims, specs, max_bytes)
        return Catalogue(root, names, dict[Key, Source](sources), present, notes)
    if isinstance(root, Location):
        return _open_remote(root, claims, chosen, max_bytes)
    warn, note = print_fn or say, print_fn or inform
    known, indexed = _read(root, warn, note), (root / INDEX).is_dir()
    if known is not None:
        try:
            view = known.view(claims, chosen)
            if view is not None and (view := fresh(known, view)) is not None:
                return _from_index(known, view, claims, max_bytes)
            known.columns()
            if known.members is not None:
                known.members.check(root / INDEX)
        except Damaged as damage:
            warn(f"{shown(root / INDEX)}: damaged ({damage}); made anew")
            known = None
    scans = Scans(root, known)
    tars = root_shards(root) if chosen is None else chosen
    opened = LocalSources(root, claims, tars, max_bytes=max_bytes, scan=scans)
    files = scans.members + sum(len(listing.files) for listing in opened.listings.values())
    if opened.sources and rank_and_world()[0] == 0 and (index or indexed or files >= MANY) and index is not False:
        try:
            with at_work(root / INDEX):
                written = write_index(root, opened, claims, chosen, scans)
            note(_done(root, scans, files, new=known is None))
            return _from_index(written, written.views[-1], claims, max_bytes)
        except (Busy, OSError) as error:
            if index:
                raise
            # Two at once are common (`fourm tokenizer fit --jobs`), and both write the same.
            report = log.debug if isinstance(error, Busy) else warn
            report(f"{shown(root / INDEX)}: not written ({error}); the next start scans again")
    names = NameTable.build(sorted(set[str]().union(*(source.names for source in opened.sources.values()))))
    present = {}
    for key, source in opened.sources.items():
        present[key] = np.zeros(len(names), bool)
        present[key][names.rows(source.names)] = True
    return Catalogue(root, names, dict[Key, Source](opened.sources), present, opened.notes)


def _open_remote(root: Location, claims: list[Claim], chosen: list[str] | None, max_bytes: int) -> Catalogue:
    """Its index is trusted."""
    again = f"run `fourm data index` on a local copy, and upload its folder {INDEX}"
    try:
        known = DataIndex.read(root)
        if known is None:
            raise Missing(f"{root / INDEX}: there is no index, without which remote data is not read; {again}")
        if (view := known.view(claims, chosen)) is None:
            names = ", ".join(name for claim in claims for name in claim.modalities)
            raise ValueError(f"{root / INDEX}: made for other modalities than {names}; {again}")
        return _from_index(known, view, claims, max_bytes)
    except OtherVersion as other:
        raise ValueError(f"{root / INDEX}: {other}; {again}") from None
    except Damaged as damage:
        raise ValueError(f"{root / INDEX}: damaged ({damage}); {again}") from None


def open_one(
    root: Root, spec: ModalitySpec, among: Iterable[ModalitySpec], *, max_bytes: int = MAX_FILE_BYTES
) -> Source | None:
    """The source of one modality; None if it has none. `among`: all active modalities, which share the tars in the
    root. Raises ValueError for invalid data."""
    key, among = spec.files, list(among)
    if not isinstance(root, Path):
        try:
            return open_catalogue(root, among, max_bytes=max_bytes).sources.get(key)
        except ValueError as error:
            if isinstance(root, PluginRoot) or isinstance(error, StoreError):
                raise
            # An index need not contain modalities that are created now.
            return open_catalogue(root, [spec], max_bytes=max_bytes).sources.get(key)
    if shards := root_shards(root) if root.is_dir() else []:
        return LocalSources(root, claims_of([*among, spec]), shards, max_bytes=max_bytes, only=key).sources.get(key)
    there = (root / spec.source).is_dir()
    return open_catalogue(root, [spec], max_bytes=max_bytes, index=False).sources.get(key) if there else None


def _read(root: Path, warn: Callable[[str], None], note: Callable[[str], None]) -> DataIndex | None:
    try:
        return DataIndex.read(root)
    except OtherVersion as other:
        note(f"{shown(root / INDEX)}: {other}, made anew")
    except Damaged as damage:
        warn(f"{shown(root / INDEX)}: damaged ({damage}); made anew")
    return None


def _from_index(index: DataIndex, view: View, claims: Sequence[Claim], max_bytes: int) -> Catalogue:
    for attempt in (0, 1):
        try:
            maps, sources = indexed_sources(index, view, claims, max_bytes)
            break
        except Damaged:
            # Another command may have replaced the index since it was read.
            newer = DataIndex.read(index.root)
            if attempt or newer is None or view.claims not in [other.claims for other in newer.views]:
                raise
            index, view = newer, next(v for v in newer.views if (v.claims, v.only) == (view.claims, view.only))
    present = {key: source.present for key, source in sources.items()}
    return Catalogue(index.root, maps.names, dict(sources), present, renamed(index, view.notes[-1]))


def _done(root: Path, scans: Scans, files: int, *, new: bool) -> str:
    some = f", such as {shown(scans.scanned[0])}" if scans.scanned else ""
    if new:
        return f"{shown(root / INDEX)}: written, {counted(files, 'file')}; safe to remove"
    return (
        f"{shown(root / INDEX)}: out of date; {len(scans.scanned)} of {counted(len(scans.blocks), 'shard')} scanned "
        f"again{some}, the others are as they were"
    )

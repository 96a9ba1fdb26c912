"""Open a data set: through its index where that is right, otherwise by a scan of what has changed since.

In: a root folder and what its modalities read. Out: a `Catalogue`: the samples, and the source of each modality. A data
set of many files is indexed on the way, if it can be written to; `fourm data index` does so for any.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.columns import OtherVersion
from fourm_engine.data.names_table import NameTable
from fourm_engine.data.raw.elsewhere import Elsewhere, open_elsewhere
from fourm_engine.data.raw.folder import MAX_FILE_BYTES, Listing
from fourm_engine.data.raw.index import (
    INDEX,
    MAX_VIEWS,
    Damaged,
    DataIndex,
    ShardRows,
    Stored,
    View,
    member_columns,
    settled,
)
from fourm_engine.data.raw.indexed import indexed_sources, renamed
from fourm_engine.data.raw.names import inform, say, shown
from fourm_engine.data.raw.open_shards import stamp_of
from fourm_engine.data.raw.root import Root
from fourm_engine.data.raw.sample_shards import Claim, Key, claims_of, others_of
from fourm_engine.data.raw.shard_scan import Block, Scanned, scan
from fourm_engine.data.raw.source import Opened, Source, root_shards
from fourm_engine.data.raw.view_columns import view_columns
from fourm_engine.device import rank_and_world
from fourm_engine.lock import Busy, at_work
from fourm_engine.storage.errors import Missing, StoreError
from fourm_engine.storage.location import Location, Readable
from fourm_plugins.counting import counted
from fourm_plugins.spec import ModalitySpec

log = logging.getLogger(__name__)
#: Files and members from which on a data set is indexed without being told to: below, a scan takes less than a second.
MANY = 10_000


@dataclass
class Catalogue:
    """Which samples the data set in `root` has."""

    root: Root
    names: NameTable
    sources: dict[Key, Source]
    #: bool (samples,), which have a file.
    present: dict[Key, np.ndarray]
    #: What was left out in the root itself.
    notes: list[str]


def open_catalogue(
    root: Root,
    specs: Iterable[ModalitySpec],
    *,
    shards: Sequence[str] | None = None,
    max_bytes: int = MAX_FILE_BYTES,
    index: bool | None = None,
    tell: Callable[[str], None] | None = None,
) -> Catalogue:
    """Open `root`.

    Args:
        shards: those of the tars in the root to read; None: all.
        index: whether to write the index: None where there is one already, or the data set is large.
        tell: takes each line on what was scanned; None: they are logged.

    Raises ValueError for what cannot be trusted, and, if `index` is true, Busy and CannotWrite."""
    specs = list(specs)
    claims = claims_of(specs)
    wanted = [[claim.source, list(claim.extensions), list(claim.modalities)] for claim in claims]
    chosen = None if shards is None else sorted(shards)
    if isinstance(root, Elsewhere):
        names, sources, present, notes = open_elsewhere(root, claims, specs, max_bytes)
        return Catalogue(root, names, dict[Key, Source](sources), present, notes)
    if isinstance(root, Location):
        return _open_remote(root, claims, wanted, chosen, max_bytes)
    warn, note = tell or say, tell or inform
    known, indexed = _read(root, warn, note), (root / INDEX).is_dir()
    if known is not None:
        try:
            view = known.view(wanted, chosen)
            if view is not None and (view := _fresh(known, view)) is not None:
                return _from_index(known, view, claims, max_bytes)
            known.columns()
            if known.members is not None:
                known.members.check(root / INDEX)
        except Damaged as damage:
            warn(f"{shown(root / INDEX)}: damaged ({damage}); made anew")
            known = None
    scans = _Scans(root, known)
    opened = Opened(root, claims, root_shards(root) if chosen is None else chosen, max_bytes=max_bytes, scan=scans)
    files = sum(len(block.flags) for block in scans.blocks.values()) + sum(
        len(listing.files) for listing in opened.listings.values()
    )
    if opened.sources and rank_and_world()[0] == 0 and (index or indexed or files >= MANY) and index is not False:
        try:
            with at_work(root / INDEX):
                before = None if known is None else len(known.shards)
                known = _save(root, known, opened, claims, wanted, chosen, scans)
            note(_done(root, before, scans, files))
            return _from_index(known, known.views[-1], claims, max_bytes)
        except (Busy, OSError) as error:
            if index:
                raise
            # Two at once are usual (`fourm tokenizer fit --jobs`), and either writes the same.
            report = log.debug if isinstance(error, Busy) else warn
            report(f"{shown(root / INDEX)}: not written ({error}); the next start scans again")
    names = NameTable.build(sorted(set[str]().union(*(source.names for source in opened.sources.values()))))
    present = {}
    for key, source in opened.sources.items():
        present[key] = np.zeros(len(names), bool)
        present[key][names.rows(source.names)] = True
    return Catalogue(root, names, opened.sources, present, opened.notes)


def _open_remote(
    root: Location, claims: Sequence[Claim], wanted: list[list[Any]], chosen: list[str] | None, max_bytes: int
) -> Catalogue:
    """What its index says of it is believed."""
    again = f"run `fourm data index` on a local copy, and upload its folder {INDEX}"
    try:
        known = DataIndex.read(root)
        if known is None:
            raise Missing(f"{root / INDEX}: there is no index, without which remote data is not read; {again}")
        if (view := known.view(wanted, chosen)) is None:
            names = ", ".join(name for _, _, modalities in wanted for name in modalities)
            raise ValueError(f"{root / INDEX}: made for other modalities than {names}; {again}")
        return _from_index(known, view, claims, max_bytes)
    except OtherVersion as other:
        raise ValueError(f"{root / INDEX}: {other}; {again}") from None
    except Damaged as damage:
        raise ValueError(f"{root / INDEX}: damaged ({damage}); {again}") from None


def open_one(
    root: Readable, spec: ModalitySpec, among: Iterable[ModalitySpec], *, max_bytes: int = MAX_FILE_BYTES
) -> Source | None:
    """The source of one modality; None where it has none. `among`: all that take part, which share the tars in the
    root. Raises ValueError for what cannot be trusted."""
    if isinstance(root, Location):
        return _open_one_remote(root, spec, list(among), max_bytes)
    key, shards = (spec.source, tuple(spec.extensions)), root_shards(root) if root.is_dir() else []
    if not shards:
        there = (root / spec.source).is_dir()
        return open_catalogue(root, [spec], max_bytes=max_bytes, index=False).sources.get(key) if there else None
    return Opened(root, claims_of([*among, spec]), shards, max_bytes=max_bytes, only=key).sources.get(key)


def _open_one_remote(
    root: Location, spec: ModalitySpec, among: Sequence[ModalitySpec], max_bytes: int
) -> Source | None:
    """Its index need not know modalities that are only made now."""
    try:
        opened = open_catalogue(root, among, max_bytes=max_bytes)
    except StoreError:
        raise
    except ValueError:
        opened = open_catalogue(root, [spec], max_bytes=max_bytes)
    return opened.sources.get((spec.source, tuple(spec.extensions)))


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


def _fresh(index: DataIndex, view: View) -> View | None:
    """The view if the data set is as it was, with the times of folders that were only touched."""
    root = index.root
    assert isinstance(root, Path)
    if view.only is None and root_shards(root) != [shard for shard in view.shards if "/" not in shard]:
        return None
    for shard in view.shards:
        at = index.shards.get(shard)
        try:
            if at is None or not at.settled or stamp_of(root / shard) != at.stamp:
                return None
        except OSError:
            return None
    folders = list(view.folders)
    for number, (source, extensions, _) in enumerate(view.claims):
        folder, times = root / source, view.folders[number]
        if (times is None) == folder.is_dir():
            return None
        if times is None or all(_time(folder / below) == time for below, time in times.items()):
            continue
        claimed = ((str(other), tuple(map(str, its))) for other, its, _ in view.claims)
        listing = Listing(folder, extensions, others_of((source, tuple(extensions)), claimed))
        if _digest(listing) != view.listed[number]:
            return None
        folders[number] = _times(listing)
    if folders != view.folders:
        touched = replace(view, folders=folders)
        index.views[index.views.index(view)] = touched
        with suppress(Busy, OSError):
            if rank_and_world()[0] == 0:
                with at_work(root / INDEX):
                    index.save()
        return touched
    return view


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -2


def _times(listing: Listing) -> dict[str, int]:
    return {below: time if settled(time) else -1 for below, time in listing.folders.items()}


def _digest(listing: Listing) -> str:
    what = json.dumps([listing.files, listing.shards, sorted(listing.folders), listing.left_out.lines()])
    return hashlib.blake2b(what.encode(), digest_size=16).hexdigest()


class _Scans:
    """Scans shards that the index does not know as they are."""

    def __init__(self, root: Path, index: DataIndex | None) -> None:
        self.root, self.index = root, index
        self.blocks: dict[str, Block] = {}
        self.scanned: list[str] = []

    def __call__(self, path: Path) -> Scanned:
        shard = path.relative_to(self.root).as_posix()
        if shard not in self.blocks and self.index is not None and (at := self.index.shards.get(shard)):
            with suppress(OSError):
                if at.settled and stamp_of(path) == at.stamp:
                    self.blocks[shard] = self.index.block(shard)
        if shard in self.blocks:
            return self.blocks[shard].scanned()
        scanned = scan(path)
        self.scanned.append(shard)
        self.blocks[shard] = Block.build(scanned)
        return scanned


def _save(
    root: Path,
    known: DataIndex | None,
    opened: Opened,
    claims: Sequence[Claim],
    wanted: list[list[Any]],
    chosen: list[str] | None,
    scans: _Scans,
) -> DataIndex:
    """Write the index and read it. Raises CannotWrite."""
    blocks: dict[str, Block] = {}
    stays = True  # whether all rows stay where they are
    for shard, at in known.shards.items() if known is not None else ():
        block = scans.blocks.get(shard)
        if block is None and _stamp(root / shard) == at.stamp:
            assert known is not None
            block = known.block(shard)
        if block is None:
            stays = False
            continue
        assert known is not None
        stays = stays and (shard not in scans.scanned or _equal(block, known.block(shard)))
        blocks[shard] = block
    blocks |= {shard: block for shard, block in scans.blocks.items() if shard not in blocks}
    index = DataIndex(root, called=shown(root))
    first = 0
    for shard, block in blocks.items():
        rows = len(block.flags)
        index.shards[shard] = ShardRows(block.stamp, settled(block.stamp[1]), first, rows)
        first += rows
    columns, index.odd = member_columns(blocks.values())
    index.members = Stored.save(root / INDEX, "members", columns)
    others = [view for view in known.views if (view.claims, view.only) != (wanted, chosen)] if known and stays else []
    firsts = {shard: at.first for shard, at in index.shards.items()}
    stored = Stored.save(root / INDEX, "view", view_columns(opened, claims, firsts))
    listings = [opened.listings.get(claim.key) for claim in claims]
    sources = [opened.sources.get(claim.key) for claim in claims]
    view = View(
        claims=wanted,
        only=chosen,
        folders=[None if listing is None else _times(listing) for listing in listings],
        listed=["" if listing is None else _digest(listing) for listing in listings],
        shards=sorted(scans.blocks),
        notes=[*([] if source is None else list(source.notes) for source in sources), opened.notes],
        by_extension=opened.by_extension,
        stored=stored,
    )
    index.views = [*others[1 - MAX_VIEWS :], view]
    index.save()
    return index


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def _equal(a: Block, b: Block) -> bool:
    names = ("offsets", "paths", "starts", "sizes", "flags", "headers")
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return arrays and json.dumps(a.odd, sort_keys=True) == json.dumps(b.odd, sort_keys=True)


def _done(root: Path, before: int | None, scans: _Scans, files: int) -> str:
    some = f", such as {shown(scans.scanned[0])}" if scans.scanned else ""
    if before is None:
        return f"{shown(root / INDEX)}: written, {counted(files, 'file')}; safe to remove"
    return (
        f"{shown(root / INDEX)}: out of date; {len(scans.scanned)} of {counted(len(scans.blocks), 'shard')} scanned "
        f"again{some}, the others are as they were"
    )

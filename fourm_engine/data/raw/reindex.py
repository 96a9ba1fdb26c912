"""Updates the index of a data set: only changed folders and shards are scanned again.

In: a root folder, its index if there is one, and its modalities' claims. Out: the updated index, on disk.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from fourm_engine.data.raw.file_bytes import Stamp, stamp_of
from fourm_engine.data.raw.folder import Listing
from fourm_engine.data.raw.index import INDEX, MAX_VIEWS, DataIndex, ShardRows, Stored, View, member_columns, settled
from fourm_engine.data.raw.local_sources import LocalSources, root_shards
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.sample_shards import Claim, others_of
from fourm_engine.data.raw.shard_scan import Block, Scanned, scan
from fourm_engine.data.raw.view_columns import view_columns
from fourm_engine.device import rank_and_world
from fourm_engine.lock import Busy, at_work


class Scans:
    """Scans shards that are new or have changed since they were indexed."""

    def __init__(self, root: Path, index: DataIndex | None) -> None:
        self.root, self.index = root, index or DataIndex(root)
        self.blocks: dict[str, Block] = {}
        self.scanned: list[str] = []

    def __call__(self, path: Path) -> Scanned:
        shard = path.relative_to(self.root).as_posix()
        if shard not in self.blocks and _unchanged(self.index, shard):
            self.blocks[shard] = self.index.block(shard)
        if shard in self.blocks:
            return self.blocks[shard].scanned()
        scanned = scan(path)
        self.scanned.append(shard)
        self.blocks[shard] = Block.build(scanned)
        return scanned

    @property
    def members(self) -> int:
        return sum(len(block.flags) for block in self.blocks.values())


def fresh(index: DataIndex, view: View) -> View | None:
    """The view, if the data set is unchanged, with updated times of folders that were only touched."""
    root = index.root
    assert isinstance(root, Path)
    if view.only is None and root_shards(root) != [shard for shard in view.shards if "/" not in shard]:
        return None
    if not all(_unchanged(index, shard) for shard in view.shards):
        return None
    folders = list(view.folders)
    for number, claim in enumerate(view.claims):
        folder, times = root / claim.source, view.folders[number]
        if (times is None) == folder.is_dir():
            return None
        if times is None or all(_time(folder / below) == time for below, time in times.items()):
            continue
        others = others_of(claim.key, (other.key for other in view.claims))
        listing = Listing(folder, claim.extensions, others)
        if _digest(listing) != view.listed[number]:
            return None
        folders[number] = _times(listing)
    if folders == view.folders:
        with suppress(Busy, OSError):
            if rank_and_world()[0] == 0 and index.unused():  # left by a process that was killed after writing
                with at_work(root / INDEX):
                    index.clean()
        return view
    touched = replace(view, folders=folders)
    index.views[index.views.index(view)] = touched
    with suppress(Busy, OSError):
        if rank_and_world()[0] == 0:
            with at_work(root / INDEX):
                index.save()
    return touched


def write_index(
    root: Path, opened: LocalSources, claims: list[Claim], chosen: list[str] | None, scans: Scans
) -> DataIndex:
    """Write the index of the opened sources, and read it back. `chosen`: the tars in the root to read; None: all.
    Raises CannotWrite."""
    known, blocks, stays = scans.index, dict[str, Block](), True  # stays: whether no row moves
    for shard, at in known.shards.items():
        block = scans.blocks.get(shard)
        if block is None and _stamp(root / shard) == at.stamp:
            block = known.block(shard)
        if block is None:
            stays = False
            continue
        stays = stays and (shard not in scans.scanned or _equal(block, known.block(shard)))
        blocks[shard] = block
    blocks |= {shard: block for shard, block in scans.blocks.items() if shard not in blocks}
    index = DataIndex(root, called=shown(root))
    first = 0
    for shard, block in blocks.items():
        index.shards[shard] = ShardRows(block.stamp, settled(block.stamp[1]), first, len(block.flags))
        first += len(block.flags)
    columns, index.odd = member_columns(blocks.values())
    index.members = Stored.save(root / INDEX, "members", columns)
    firsts = {shard: at.first for shard, at in index.shards.items()}
    listings = [opened.listings.get(claim.key) for claim in claims]
    sources = [opened.sources.get(claim.key) for claim in claims]
    view = View(
        claims=claims,
        only=chosen,
        folders=[None if listing is None else _times(listing) for listing in listings],
        listed=["" if listing is None else _digest(listing) for listing in listings],
        shards=sorted(scans.blocks),
        notes=[*([] if source is None else list(source.notes) for source in sources), opened.notes],
        by_extension=opened.by_extension,
        stored=Stored.save(root / INDEX, "view", view_columns(opened, claims, firsts)),
    )
    others = [other for other in known.views if (other.claims, other.only) != (claims, chosen)] if stays else []
    index.views = [*others[1 - MAX_VIEWS :], view]
    index.save()
    return index


def _unchanged(index: DataIndex, shard: str) -> bool:
    """Whether a shard is unchanged since it was indexed."""
    at = index.shards.get(shard)
    return at is not None and at.settled and _stamp(Path(str(index.root), shard)) == at.stamp


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -2


def _times(listing: Listing) -> dict[str, int]:
    return {below: time if settled(time) else -1 for below, time in listing.folders.items()}


def _digest(listing: Listing) -> str:
    what = json.dumps([listing.files, listing.shards, sorted(listing.folders), [note.text for note in listing.notes]])
    return hashlib.blake2b(what.encode(), digest_size=16).hexdigest()


def _equal(a: Block, b: Block) -> bool:
    """Whether two blocks are equal except for their stamps, the first field."""
    same = all(np.array_equal(x, y) for x, y in zip(a[1:-1], b[1:-1]))  # the last is `odd`
    return same and json.dumps(a.odd, sort_keys=True) == json.dumps(b.odd, sort_keys=True)

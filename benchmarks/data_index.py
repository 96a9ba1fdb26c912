"""Opening the index of a large data set: seconds, bytes a sample on disk, and memory of a process with its workers.

    python -m benchmarks.data_index --folder /somewhere/on/a/disk

Writes the index of a data set that is not there: its columns as `fourm tokenize` would write them (names of 9 digits,
hashes drawn at random), and for each of its shards a file of one byte, whose size and time are compared when the index
is opened. Then it opens it as a run does (`TokenStore`), forks workers, lets all of them look up samples at random,
and sums their proportional share of memory (Pss of /proc/*/smaps_rollup), less that of the process before.

    python -m benchmarks.data_index --folder /somewhere --build --rows 100000 --shards 20

writes real shards, of 16 tokens a sample and modality, and makes their index: all of it, and again after one shard of
one modality has been touched.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from fourm_engine.data.columns import Column, Entries
from fourm_engine.data.names_table import NameTable
from fourm_engine.data.tokens.folder_scan import file_stamps, scan
from fourm_engine.data.tokens.index import BYTES, CONTENT, FIELDS, INDEX_FOLDER, TIME, Index
from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.data.tokens.shards import VIEWS_FOLDER, shard_path
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.tokens.token_shards import Made, Making, TokenShardWriter
from fourm_engine.data.tokens.view_shards import ViewShard, write_views
from fourm_engine.identity import digest
from fourm_plugins.view import View
from tests.fakes import Labels

DIGITS = 9


def write(folder: Path, rows: int, shards: int, modalities: dict[str, Labels]) -> None:
    parts, rng = [VIEWS_FOLDER, *sorted(modalities)], np.random.default_rng(0)
    for part in parts:
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number in range(shards):
            with open(shard_path(folder / part, number), "wb") as file:
                file.truncate(1)
    table = np.zeros((shards, 3), np.uint64)
    table[:, 0], table[:, 1], table[:, 2] = np.arange(shards), rows // shards, rng.integers(1, 1 << 63, shards)
    files = np.zeros((shards, len(parts), len(FIELDS)), np.uint64)
    files[:, :, : TIME + 1] = file_stamps(scan(folder), parts)
    files[:, :, CONTENT] = rng.integers(1, 1 << 63, files.shape[:2])
    assert (files[:, :, BYTES] == 1).all()
    present = np.full(rows, (1 << len(modalities)) - 1, np.uint8)
    present[rng.integers(0, rows, rows // 10)] &= ~np.uint8(1)
    blob = np.empty((rows, DIGITS), np.uint8)
    numbers = np.arange(rows, dtype=np.uint32)
    for digit in reversed(range(DIGITS)):
        blob[:, digit] = numbers % 10 + ord("0")
        numbers //= 10
    hashes = np.sort(rng.integers(0, 1 << 64, rows, dtype=np.uint64))
    names = NameTable(
        np.arange(0, (rows + 1) * DIGITS, DIGITS, dtype=np.uint32), blob.ravel(), hashes,
        rng.permutation(np.arange(rows, dtype=np.uint32)),
    )  # fmt: skip
    kinds = {int(mask): int(count) for mask, count in zip(*np.unique(present, return_counts=True))}
    making = {
        name: [Making("f", 1, modality.spec.alignment or "", "{}", digest(modality.identity()))]
        for name, modality in modalities.items()
    }
    settings, groups = {"augment": False}, [["image"]]
    dropped = np.zeros(0, np.int64)
    Index(folder, 1, settings, groups, sorted(modalities), making, table, files, present, dropped, names, kinds).save()


def build(folder: Path, rows: int, shards: int, modalities: dict[str, Labels]) -> None:
    ids, each = [np.zeros(16, np.int32)], rows // shards
    for number in range(shards):
        names = [f"{number * each + row:0{DIGITS}}" for row in range(each)]
        whole = {group: View() for group in {m.spec.alignment for m in modalities.values()} if group is not None}
        views, path = {name: [whole] for name in names}, shard_path(folder / VIEWS_FOLDER, number)
        write_views(path, views, [0] * each, groups=sorted(whole), settings={"augment": False}, views=1)
        seen = ViewShard(path)
        for modality in modalities.values():
            view = seen.digests_of(group) if (group := modality.spec.alignment) is not None else {}
            content = {name: (Made(1, 1, view.get(name, 0)), ids) for name in names}
            TokenShardWriter(folder, modality, "f", 1).write(number, names, content)
    for what in ("all shards", "one shard of one modality"):
        began, used = time.perf_counter(), time.process_time()
        index = open_index(folder)
        seconds, used = time.perf_counter() - began, time.process_time() - used
        assert len(index) == rows
        print(f"index of {rows} samples and {len(modalities)} modalities, {what} read: {seconds:.2f} s ({used:.2f} s)")
        os.utime(index.path(1, 0), ns=(1, 1))


def memory(pid: int | str) -> int:
    """Bytes: the proportional share of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def columns_of(index: Index) -> list[Entries]:
    return [index.shards, index.files, index.present, index.dropped, *index.names.arrays().values()]


def checked_bytes(column: Entries) -> int:
    """Bytes that were compared with their checksums."""
    return column.checked if isinstance(column, Column) else column.nbytes


def work(store: TokenStore, seed: int) -> None:
    for row in np.random.default_rng(seed).integers(0, len(store), 100_000).tolist():
        store.has(row)
        store.index.locate(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--modalities", type=int, default=7)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--build", action="store_true")
    options = parser.parse_args()
    modalities = {f"m{number}": Labels(f"m{number}") for number in range(options.modalities)}
    if options.build:
        build(options.folder, options.rows, options.shards, modalities)
        return
    if not (options.folder / INDEX_FOLDER).is_dir():
        write(options.folder, options.rows, options.shards, modalities)
    before, began, used = memory("self"), time.perf_counter(), time.process_time()
    store = TokenStore(options.folder, modalities, {})
    seconds, used = time.perf_counter() - began, time.process_time() - used
    assert len(store) == options.rows
    alone = memory("self") - before
    compared = sum(checked_bytes(column) for column in columns_of(store.index))
    began = time.perf_counter()
    store.identity()
    identity = time.perf_counter() - began

    ready, go = os.pipe(), os.pipe()
    workers = []
    for number in range(options.workers):
        if not (pid := os.fork()):
            work(store, number)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        workers.append(pid)
    work(store, len(workers))
    for _ in workers:
        os.read(ready[0], 1)
    together = memory("self") + sum(map(memory, workers)) - before
    os.write(go[1], b"x" * len(workers))
    for pid in workers:
        os.waitpid(pid, 0)
    size = sum(path.stat().st_size for path in (options.folder / INDEX_FOLDER).iterdir())
    print(f"{options.rows} samples, {options.shards} shards, {options.modalities} modalities")
    print(f"index on disk: {size / options.rows:.1f} bytes a sample")
    print(f"opened in {seconds:.2f} s ({used:.2f} s of processor time), {compared >> 10} KiB compared with checksums")
    print(f"identity of the run in {identity:.2f} s")
    print(f"memory: {alone >> 20} MiB; with {options.workers} workers, all together {together >> 20} MiB")


if __name__ == "__main__":
    main()

"""What the index of raw data costs: made of N WebDataset shards of 1,000 samples with three small members each.

    python -m benchmarks.raw_index FOLDER --shards 1000

Prints processor time, so that other work on the machine does not count, and the anonymous memory of this process; run
it twice: the first call makes shards and index, the second opens what is there.
"""

from __future__ import annotations

import argparse
import os
import random
import tarfile
import time
from pathlib import Path

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.index import INDEX
from tests.fakes import fake_modalities


def write_shards(root: Path, shards: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        path = root / f"shard-{shard:05d}.tar"
        if path.exists():
            continue
        with open(path, "wb") as file:
            for sample in range(shard * 1000, (shard + 1) * 1000):
                for ending, content in (("a.npy", b"x" * 10), ("b.npy", b"y" * 10), ("words.txt", b"hello")):
                    member = tarfile.TarInfo(f"{sample:08d}.{ending}")
                    member.size = len(content)
                    file.write(member.tobuf(tarfile.USTAR_FORMAT) + content.ljust(512, b"\0"))
            file.write(bytes(1024))
        os.utime(path, (1e9, 1e9))


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1000)
    options = parser.parse_args()
    write_shards(options.folder, options.shards)
    before, began = anonymous_mib(), time.process_time()
    data = AlignedData(options.folder, fake_modalities(["a", "b", "words"]))
    opened, held = time.process_time() - began, anonymous_mib() - before
    size = sum(path.stat().st_size for path in (options.folder / INDEX).rglob("*.npy"))
    names = [data.names[random.randrange(len(data.names))] for _ in range(2000)]
    began = time.process_time()
    for name in names:
        data.files(name, "a")
    read = (time.process_time() - began) / len(names)
    print(
        f"{len(data.names)} samples: opened in {opened:.2f} s, {held:.1f} MiB held, index of "
        f"{size / len(data.names):.0f} bytes a sample, a member read in {read * 1e6:.0f} µs"
    )


if __name__ == "__main__":
    main()

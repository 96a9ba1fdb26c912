"""Labels for tasks/kinds-head.yaml: the kind of the largest object of each scene, from its boxes.

python examples/ablations/kinds.py data/demo      # writes data/demo/kinds-train.json and kinds-val.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from pathlib import Path


def area(one: dict) -> float:
    left, top, right, bottom = one["bbox"]
    return (right - left) * (bottom - top)


def kinds_in(folder: Path) -> dict[str, str]:
    kinds = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as shard:
            for member in shard:
                if boxes := json.load(shard.extractfile(member)):
                    kinds[member.name.removesuffix(".json")] = max(boxes, key=area)["label"]
    if not kinds:
        sys.exit(f"{folder}: no boxes in *.tar; name the folder that `make demo` wrote, data/demo")
    return kinds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    by_split = {split: kinds_in(folder / split / "boxes") for split in ("train", "val")}
    for split, kinds in by_split.items():
        (folder / f"kinds-{split}.json").write_text(json.dumps(kinds))

"""Labels for tasks/kinds-head.yaml: the kind of the largest object of each scene, from its boxes.

python examples/ablations/kinds.py data/demo      # writes data/demo/kinds-train.json and kinds-val.json
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path


def area(one: dict) -> float:
    left, top, right, bottom = one["bbox"]
    return (right - left) * (bottom - top)


for split in ("train", "val"):
    kinds = {}
    for path in sorted(Path(sys.argv[1], split, "boxes").glob("*.tar")):
        with tarfile.open(path) as shard:
            for member in shard:
                boxes = json.load(shard.extractfile(member))
                kinds[member.name.removesuffix(".json")] = max(boxes, key=area)["label"]
    Path(sys.argv[1], f"kinds-{split}.json").write_text(json.dumps(kinds))

"""Labels of rendered scenes that no modality spells out, from boxes, classes and depth, for examples/ablations/tasks:

    python examples/scenes/labels.py data/demo     # data/demo/kinds-train.json, kinds-val.json, counts-…, orders-…

kinds: the kind of the object with the largest box. counts: the number of objects, 1 to 4. orders: which of the two
objects with the largest boxes is nearer to the camera, the "left" or the "right" one; a scene has no label where it has
one object, or where they are less than 0.3 m apart.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from world import CLASSES

APART = 0.3  # metres

Box = dict[str, Any]


def area(box: Box) -> float:
    left, top, right, bottom = box["bbox"]
    return (right - left) * (bottom - top)


def kind(boxes: list[Box]) -> str:
    return max(boxes, key=area)["label"]


def distance(box: Box, depth: np.ndarray, classes: np.ndarray) -> float:
    """Metres to an object: the median over the pixels of its kind in its box. `depth` (S, S) in metres, `classes`
    (S, S) the ids of `world.CLASSES`."""
    left, top, right, bottom = (round(edge * len(depth)) for edge in box["bbox"])
    inside = np.s_[top:bottom, left:right]
    return float(np.median(depth[inside][classes[inside] == CLASSES.index(box["label"])]))


def nearer(boxes: list[Box], depth: np.ndarray, classes: np.ndarray) -> str | None:
    """Which of the two largest objects is nearer, or None if there is no telling."""
    two = sorted(sorted(boxes, key=area)[-2:], key=lambda box: box["bbox"][0] + box["bbox"][2])
    metres = [distance(box, depth, classes) for box in two]
    if len(two) < 2 or abs(metres[0] - metres[1]) < APART:
        return None
    return "left" if metres[0] < metres[1] else "right"


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The names, without extension, and contents of the files in a modality's shards."""
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        sys.exit(f"{folder}: no *.tar; name a folder that examples/scenes/render.py wrote, such as data/demo")
    for path in shards:
        with tarfile.open(path) as shard:
            for member in shard:
                yield Path(member.name).stem, shard.extractfile(member).read()  # type: ignore[union-attr]


def labels(split: Path) -> dict[str, dict[str, str]]:
    """{"kinds", "counts", "orders"} -> {sample: label}."""
    kinds, counts, orders = dict[str, str](), dict[str, str](), dict[str, str]()
    modalities = (files(split / modality) for modality in ("boxes", "depth", "semseg"))
    for (name, written), (_, depth), (_, classes) in zip(*modalities, strict=True):
        if boxes := json.loads(written):
            kinds[name], counts[name] = kind(boxes), str(len(boxes))
            metres = np.asarray(Image.open(io.BytesIO(depth)), np.float32) / 1000
            if order := nearer(boxes, metres, np.asarray(Image.open(io.BytesIO(classes)))):
                orders[name] = order
    return {"kinds": kinds, "counts": counts, "orders": orders}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    splits = [split for split in ("train", "val") if (folder / split).is_dir()] or ["train"]
    by_split = {split: labels(folder / split) for split in splits}
    for split, tasks in by_split.items():
        for task, of_samples in tasks.items():
            (folder / f"{task}-{split}.json").write_text(json.dumps(of_samples))

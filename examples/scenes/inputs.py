"""The files that the commands of docs/generation.md name, of held-out scenes of the demo:

    python examples/scenes/inputs.py

Writes into the current folder (`--out`): photo.png, depth.png, map.png and boxes.json of one scene, and large.png, the
same at 192 pixels; flat.png, its depth without objects; mask.png, white where its cube is, and border.png, white
around its middle; truth.npy, its depth in metres; pictures/ and scans/, the same of four scenes; and list.jsonl.
Overwrites nothing, and adds nothing to a folder that holds something else.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from render import Scene, encode, render_scene

from fourm_engine.files import write_atomically

#: A red cube and, to its right, a cyan cone; then others.
SCENES = (133, 120, 81, 85)


def files() -> dict[str, bytes]:
    """Every file by its path."""
    scene, *others = (render_scene(0, number, split="val") for number in SCENES)
    whole = encode(scene)
    made = {"photo.png": whole["rgb"], "depth.png": whole["depth"], "map.png": whole["semseg"]}
    made |= {
        "boxes.json": whole["boxes"],
        "large.png": encode(render_scene(0, SCENES[0], split="val", size=192))["rgb"],
    }
    np.save(truth := io.BytesIO(), scene.picture.depth.astype(np.float32))
    made["truth.npy"] = truth.getvalue()
    made["flat.png"] = _png(np.rint(flattened(scene) * 1000).astype(np.uint16))
    box = np.zeros((64, 64), bool)
    x0, y0, x1, y1 = (round(64 * v) for v in next(b["bbox"] for b in scene.boxes if b["label"] == "cube"))
    box[y0:y1, x0:x1] = True
    border = np.ones((64, 64), bool)
    border[16:48, 16:48] = False
    made |= {"mask.png": _png(box), "border.png": _png(border)}
    for number, one in zip(SCENES, (scene, *others), strict=True):
        encoded = encode(one)
        made |= {f"pictures/{number}.png": encoded["rgb"], f"scans/{number}.png": encoded["depth"]}
    lines = [{"caption": "a red cube", "name": "cube"}, {"caption": "a blue cone", "depth": "depth.png", "seed": 3}]
    made["list.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return made


def flattened(scene: Scene) -> np.ndarray:
    """Its depth, in metres, where each row's objects are replaced by what lies beside them, interpolated."""
    depth, objects = scene.picture.depth.copy(), scene.picture.semseg > 1
    for row, hidden in zip(depth, objects, strict=True):
        if hidden.any() and not hidden.all():
            row[hidden] = np.interp(np.flatnonzero(hidden), np.flatnonzero(~hidden), row[~hidden])
    return depth


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(), help="folder; the current one")
    out, made = parser.parse_args().out, files()
    for folder in {Path(name).parent for name in made} - {Path()}:
        there = sorted(path.name for path in (out / folder).iterdir()) if (out / folder).is_dir() else []
        if other := [name for name in there if f"{folder}/{name}" not in made]:
            sys.exit(f"{out / folder} holds {other[0]}, too; move it away, or name another folder with --out")
    for name, data in made.items():
        if (out / name).exists() and (out / name).read_bytes() != data:
            sys.exit(f"{out / name} exists, with another content; move it away, or name another folder with --out")
    for name, data in made.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / name, data)
    print(*made)


if __name__ == "__main__":
    main()

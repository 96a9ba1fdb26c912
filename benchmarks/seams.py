"""Whether tiles of a larger picture agree on their seams, on pictures that are larger than a trained run's.

    python examples/scenes/render.py --out data/large --train 1 --val 12 --size 192
    OMP_NUM_THREADS=1 python -m benchmarks.seams runs/demo data/large/val/rgb --target depth

For tiles drawn in eight steps and tiles computed in one, with and without overlap: the mean step of the target's array
between neighbouring pixels at the edges of tiles, and at the other edges of tokens, where the tokenizer's steps are;
their ratio is 1 where a tile's edge cannot be told from a token's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fourm_engine as fm
from benchmarks.shards import read
from fourm_engine.generate.tiles import Tiling
from fourm_plugins.spec import Grid

DRAWN = {"steps": 8, "temperature": 1.0, "top_p": 0.9}


def steps(array: np.ndarray, tiling: Tiling, patch: tuple[int, int]) -> tuple[list[float], list[float]]:
    """The mean step across each line between tokens of (C, H, W): where a tile begins or ends, and elsewhere."""
    edges, elsewhere = list[float](), list[float]()
    for axis, (size, pixels) in enumerate(zip(tiling.size, patch, strict=True)):
        lines = np.abs(np.diff(array, axis=axis + 1)).mean(axis=(0, 2 - axis))
        ends = {corner[axis] + more for corner in tiling.corners for more in (0, size)}
        for token in range(1, array.shape[axis + 1] // pixels):
            (edges if token in ends else elsewhere).append(float(lines[token * pixels - 1]))
    return edges, elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, help="folder of tar shards")
    parser.add_argument("--target", default="depth")
    parser.add_argument("--samples", type=int, default=12)
    options = parser.parse_args()
    model = fm.FourM.from_pretrained(options.run)
    modality = model.modalities[options.target]
    layout = modality.spec.layout
    assert isinstance(layout, Grid)
    print("| tiles | overlap | step at tiles' edges | at other tokens' edges | ratio |\n|---|---|---|---|---|")
    for name, how in (("drawn", DRAWN), ("computed", {})):
        for overlap in (0, 2):
            edges, elsewhere = list[float](), list[float]()
            for files in read(options.pictures, options.samples).values():
                made = fm.generate_tiled(model, {"rgb": files["png"]}, options.target, overlap=overlap, **how)
                array = modality.normalise(made.value)
                rows, columns = (n // p for n, p in zip(array.shape[1:], modality.spec.patch, strict=True))
                tiling = Tiling.of((rows, columns), (layout.height, layout.width), overlap)
                parts = steps(array, tiling, modality.spec.patch)
                edges += parts[0]
                elsewhere += parts[1]
            at, other = np.mean(edges), np.mean(elsewhere)
            print(f"| {name} | {overlap} | {at:.4f} | {other:.4f} | {at / other:.2f} |", flush=True)


if __name__ == "__main__":
    main()

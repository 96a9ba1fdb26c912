"""What it shows: NYUv2 as `fourm finetune` reads it, from the two files that are published.

The command:   python examples/transfer/nyuv2.py nyu_depth_v2_labeled.mat splits.mat --out data/nyuv2
The result:    data/nyuv2/{train,test}/rgb/0001.jpg, depth/0001.png: 795 and 654 pairs (pip install h5py scipy pillow)

Depth is in millimetres, 16 bits; it comes filled in (`depths`), or with --raw as measured (`rawDepths`), 0 where it was
not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image


def unpack(labelled: Path, splits: Path, out: Path, *, raw: bool = False) -> dict[str, int]:
    """Write the pairs of both splits; returns how many of each. Pictures keep the number they have in the files."""
    numbers = scipy.io.loadmat(splits)
    counts = {}
    with h5py.File(labelled) as file:
        # MATLAB stores columns first: (n, 3, width, height) and (n, width, height).
        images, depths = file["images"], file["rawDepths" if raw else "depths"]
        for split, key in (("train", "trainNdxs"), ("test", "testNdxs")):
            for name in ("rgb", "depth"):
                (out / split / name).mkdir(parents=True, exist_ok=True)
            for number in numbers[key].ravel().tolist():
                picture, metres = images[number - 1].transpose(2, 1, 0), depths[number - 1].T
                millimetres = np.rint(metres * 1000).clip(0, 65535).astype(np.uint16)
                Image.fromarray(picture).save(out / split / f"rgb/{number:04}.jpg", quality=95)
                Image.fromarray(millimetres).save(out / split / f"depth/{number:04}.png")
            counts[split] = numbers[key].size
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled", type=Path, help="nyu_depth_v2_labeled.mat")
    parser.add_argument("splits", type=Path, help="splits.mat")
    parser.add_argument("--out", type=Path, default=Path("data/nyuv2"))
    parser.add_argument("--raw", action="store_true", help="depth as measured, with gaps")
    options = parser.parse_args()
    for split, count in unpack(options.labelled, options.splits, options.out, raw=options.raw).items():
        print(f"{options.out / split}: {count} pairs")

"""Handwritten digits of scikit-learn as pictures: 10 of each class to learn from, the others to measure on.

    pip install scikit-learn
    python examples/ablations/digits.py data/digits    # data/digits/train/CLASS/0001.png, data/digits/val/CLASS/…

Pictures are 64x64 pixels, grey, interpolated from 8x8.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

EACH, SIDE = 10, 64

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    digits = load_digits()
    seen = Counter[int]()
    for number, (grey, label) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        path = folder / ("train" if seen[label] < EACH else "val") / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        seen[label] += 1
        picture = Image.fromarray(np.uint8(grey * 255 / 16)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.convert("RGB").save(path)

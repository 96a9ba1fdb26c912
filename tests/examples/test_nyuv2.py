"""NYUv2's own files, in the layout of MATLAB 7.3, become pictures and millimetres of the official split."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")
UNPACK = Path(__file__).parents[2] / "examples/transfer/nyuv2.py"


def test_pairs_of_both_splits_keep_their_pixels_numbers_and_metres(tmp_path):
    rows, columns = np.mgrid[:6, :8]
    depths = np.stack([1.0 + rows / 10 + columns / 100 + i for i in range(3)]).astype(np.float32)  # (n, height, width)
    images = np.zeros((3, 6, 8, 3), np.uint8)
    images[:, :3, :, 0], images[:, 3:, :, 2] = 200, 200  # red above blue
    measured = np.where(rows < 2, 0, depths)
    with h5py.File(tmp_path / "labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["depths"], file["rawDepths"] = depths.transpose(0, 2, 1), measured.transpose(0, 2, 1)
    splits = {"trainNdxs": np.array([[1], [3]], np.uint16), "testNdxs": np.array([[2]], np.uint16)}
    scipy_io.savemat(tmp_path / "splits.mat", splits)
    unpack = runpy.run_path(str(UNPACK))["unpack"]
    files = tmp_path / "labeled.mat", tmp_path / "splits.mat"
    assert unpack(*files, tmp_path / "nyuv2") == {"train": 2, "test": 1}
    names = {path.relative_to(tmp_path / "nyuv2").as_posix() for path in (tmp_path / "nyuv2").rglob("*.*")}
    assert names == {
        *(f"train/{part}" for part in ("rgb/0001.jpg", "rgb/0003.jpg", "depth/0001.png", "depth/0003.png")),
        *(f"test/{part}" for part in ("rgb/0002.jpg", "depth/0002.png")),
    }
    stored = np.asarray(Image.open(tmp_path / "nyuv2/test/depth/0002.png"))
    assert np.abs(stored / 1000 - depths[1]).max() < 6e-4
    picture = np.asarray(Image.open(tmp_path / "nyuv2/test/rgb/0002.jpg")).astype(int)
    assert picture.shape == (6, 8, 3)
    assert picture[0, :, 0].min() > 120 > picture[0, :, 2].max()  # red, and above
    unpack(*files, tmp_path / "raw", raw=True)
    stored = np.asarray(Image.open(tmp_path / "raw/train/depth/0001.png"))
    assert not stored[:2].any()
    assert stored[2:].all()

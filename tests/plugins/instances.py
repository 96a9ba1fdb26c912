"""The seven plugins' modalities at a small size, and files made in memory."""

import io

import numpy as np
from fourm_boxes import Boxes
from fourm_caption import Caption
from fourm_clip import CLIP
from fourm_depth import Depth
from fourm_normal import Normal
from fourm_rgb import RGB, RGBPixels
from fourm_semseg import SemSeg
from PIL import Image

SMALL = {"image_size": 64, "patch_size": 8}
CLASSES = {
    "rgb": RGB,
    "rgb@pixels": RGBPixels,
    "depth": Depth,
    "normal": Normal,
    "semseg": SemSeg,
    "boxes": Boxes,
    "caption": Caption,
    "clip": CLIP,
}


def modality(name, **settings):
    if name not in ("boxes", "caption"):
        settings = SMALL | settings
    if name == "clip":
        settings = {"channels": 16} | settings
    return CLASSES[name](name, **settings)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()

"""Base classes of modalities by their nature: subclass one, override what differs.

    class               layout    value                                    default files
    ScalarGrid          Grid      float32 (H, W) of one quantity           .npy, or PNG of 16 bits
    PictureGrid         Grid      uint8 (H, W, 3)                          .png, .jpg, .jpeg, .webp
    ClassGrid           Grid      int64 (H, W), -1 for no class            PNG of ids
    FeatureGrid         Grid      float32 (h, w, channels)                 .npy
    ScalarVector        Vector    {column: number}                         JSON object
    TextSequence        Sequence  tuple of alternatives                    text, one per line
    GridModality        Grid      any with rows and columns first          yours
    SequenceModality    Sequence  any that can be written as text          yours

Each of them reads, crops, normalises, renders and measures; a subclass sets class attributes (unit, range, licence) and
overrides methods where its data differs. No torch.
"""

from fourm_plugins.bases.classes import ClassGrid, ClassSettings
from fourm_plugins.bases.features import FeatureGrid, FeatureSettings
from fourm_plugins.bases.grid import GridModality
from fourm_plugins.bases.pictures import PictureGrid
from fourm_plugins.bases.scalars import ScalarGrid, ScalarSettings
from fourm_plugins.bases.text import SequenceModality, SequenceSettings, TextSequence, TextSequenceSettings
from fourm_plugins.bases.vector import Column, ScalarVector, VectorSettings

__all__ = [
    "ClassGrid",
    "ClassSettings",
    "Column",
    "FeatureGrid",
    "FeatureSettings",
    "GridModality",
    "PictureGrid",
    "ScalarGrid",
    "ScalarSettings",
    "ScalarVector",
    "SequenceModality",
    "SequenceSettings",
    "TextSequence",
    "TextSequenceSettings",
    "VectorSettings",
]

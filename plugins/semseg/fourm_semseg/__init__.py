"""Semantic class maps.

Files: PNG with one channel of class ids; one id may mean "no class" (`ignore`). Value and array: int64 (H, W), -1 where
a pixel has no class.
"""

from __future__ import annotations

from pydantic import Field

from fourm_plugins.bases import ClassGrid, ClassSettings


class SemSegSettings(ClassSettings):
    source: str = "semseg"
    codebook_size: int = 4096
    #: The published models' number, where neither this nor `classes` is given.
    num_classes: int = Field(default=134, ge=2, le=65535)


class SemSeg(ClassGrid):
    Settings = SemSegSettings
    published_prefix = "tok_semseg"
    licence = "Apache-2.0"
    description = "semantic classes"

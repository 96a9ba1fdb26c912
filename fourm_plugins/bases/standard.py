"""The common part of all base classes: class attributes, and the spec built from them."""

from __future__ import annotations

from typing import Any, ClassVar

from fourm_plugins.modality import Modality, Value
from fourm_plugins.spec import ModalitySpec


class StandardModality(Modality[Value]):
    """Describes a modality by class attributes. `Settings` must have `source` and `masker`."""

    #: Extensions of the files to read.
    extensions: ClassVar[tuple[str, ...]]
    #: Group that shares crops and flips; None if no crop changes the value.
    alignment: ClassVar[str | None] = "image"
    #: SPDX identifier of the plugin's licence.
    licence: ClassVar[str] = "unspecified"
    description: ClassVar[str] = ""

    def build_spec(self, **facts: Any) -> ModalitySpec:
        """Build the spec from `facts` (layout, array, ...) and the class attributes. The default folder is the
        modality's name up to an "@", which separates instances of one modality."""
        stated = {
            "name": self.name,
            "source": self.settings.source or self.name.partition("@")[0],
            "masker": self.settings.masker,
            "extensions": self.extensions,
            "alignment": self.alignment,
            "licence": self.licence,
            "description": self.description,
        }
        return ModalitySpec(**stated | facts)

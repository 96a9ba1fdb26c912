"""What all base classes share: the facts that a class states, and the spec that is built from them."""

from __future__ import annotations

from typing import Any, ClassVar

from fourm_plugins.modality import Modality, Value
from fourm_plugins.spec import ModalitySpec


class StandardModality(Modality[Value]):
    """Facts of a modality as class attributes. `Settings` has `source` and `masker`."""

    #: Extensions of the files that are read.
    extensions: ClassVar[tuple[str, ...]]
    #: Group that shares crops and flips; None for what no crop changes.
    alignment: ClassVar[str | None] = "image"
    #: SPDX identifier of the plugin's licence.
    licence: ClassVar[str] = "unspecified"
    description: ClassVar[str] = ""

    def build_spec(self, **facts: Any) -> ModalitySpec:
        """The spec of `facts` (layout, array, ...) and of what the class states. The folder that is read is by default
        the modality's name, up to an "@", which separates the instances of one modality."""
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

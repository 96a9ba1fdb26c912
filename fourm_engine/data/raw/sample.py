"""RawSample: one sample of `AlignedData`. Each of its files is read and decoded at most once."""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_plugins.view import View


class RawSample:
    """The files and values of one sample, cached. All methods raise BadFile."""

    def __init__(self, data: AlignedData, name: str) -> None:
        self.data, self.name = data, name
        self._files: dict[str, dict[str, bytes]] = {}
        self._values: dict[str, Any] = {}  # a value, or the BadFile raised instead

    def files(self, modality: str) -> dict[str, bytes]:
        """{extension: content}."""
        if modality not in self._files:
            self._files[modality] = self.data.files(self.name, modality)
        return self._files[modality]

    def value(self, modality: str) -> Any:
        """The value as read."""
        if modality not in self._values:
            try:
                self._values[modality] = self.data.value(self.name, modality, self.files(modality))
            except BadFile as bad:
                self._values[modality] = bad
        value = self._values[modality]
        if isinstance(value, BadFile):
            raise value
        return value

    def augmented(self, modality: str, view: View) -> Any:
        """The value through a view, at the modality's size."""
        return self.data.augment(self.name, modality, self.value(modality), view)

    def array(self, modality: str, view: View) -> np.ndarray | str:
        """The array for the tokenizer, or for a continuous input of the model."""
        return self.data.normalise(self.name, modality, self.augmented(modality, view))

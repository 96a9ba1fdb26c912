"""The conformance kit, run on the modality `spectrogram`."""

from typing import ClassVar

from fourm_plugins.testing import ModalityConformance


class TestSpectrogram(ModalityConformance):
    modality = "spectrogram"
    settings: ClassVar = {"image_size": [32, 32]}
    expected_failures: ClassVar = {
        "value_survives_its_array": "the phase is left out of the array; the sound that is found again has it anew"
    }

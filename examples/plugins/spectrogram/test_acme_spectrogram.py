"""The conformance kit, run on the modality `spectrogram`."""

from fourm_plugins.testing import ModalityConformance


class TestSpectrogram(ModalityConformance):
    modality = "spectrogram"
    settings = {"image_size": [32, 32]}
    expected_failures = {
        "value_survives_its_array": "the phase is left out of the array; the sound that is found again has it anew",
    }

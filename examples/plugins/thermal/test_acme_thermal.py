"""The conformance kit, run on the modality `thermal`."""

from fourm_plugins.testing import ModalityConformance


class TestThermal(ModalityConformance):
    modality = "thermal"

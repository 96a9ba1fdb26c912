"""The conformance kit, run on the modality `weather`."""

from fourm_plugins.testing import ModalityConformance


class TestWeather(ModalityConformance):
    modality = "weather"

"""The conformance kit's checks of maskers, on the tokens of an installed modality."""

from fourm_plugins.testing import MaskerConformance


class TestBlocks(MaskerConformance):
    kind = "blocks"
    modality = "depth"

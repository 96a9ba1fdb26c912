"""The conformance kit's checks of tokenizers, on the arrays of an installed modality."""

from fourm_plugins.testing import TokenizerConformance


class TestKMeans(TokenizerConformance):
    kind = "kmeans"
    modality = "depth"

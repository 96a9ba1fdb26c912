"""The SDK for writers of modality plugins. Imports neither the engine nor torch."""

from fourm_plugins.hookspecs import hookimpl
from fourm_plugins.masker import MASK, Masked, Masker, Specials
from fourm_plugins.modality import Labeller, Metric, Modality, SampleError, Settings
from fourm_plugins.spec import (
    ClassMap,
    FeatureMap,
    FeatureVector,
    Grid,
    ModalitySpec,
    Sequence,
    Text,
    TokenizerRecipe,
    TokenSpace,
    Vector,
)
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer
from fourm_plugins.view import View

__all__ = [
    "MASK",
    "ClassMap",
    "FeatureMap",
    "FeatureVector",
    "Grid",
    "Labeller",
    "Masked",
    "Masker",
    "Metric",
    "Modality",
    "ModalitySpec",
    "SampleError",
    "Sequence",
    "Settings",
    "Specials",
    "Text",
    "TextTokenizer",
    "TokenSpace",
    "Tokenizer",
    "TokenizerRecipe",
    "Vector",
    "View",
    "hookimpl",
]

"""The SDK for writers of modality plugins. Imports neither the engine nor torch.

The names below are imported lazily, on first use: discovering plugins (`fourm_plugins.manager`) needs neither them nor
NumPy and pydantic, which they depend on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm_plugins.errors import SampleError
    from fourm_plugins.head import HeadFeatures, HeadSpec
    from fourm_plugins.hookspecs import Run, hookimpl
    from fourm_plugins.masker import MASK, Masked, Masker, SpecialTokens
    from fourm_plugins.modality import Labeller, Metric, Modality
    from fourm_plugins.order import DecodingOrder, Predicted
    from fourm_plugins.settings import Settings
    from fourm_plugins.source import SampleSource
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
    "DecodingOrder",
    "FeatureMap",
    "FeatureVector",
    "Grid",
    "HeadFeatures",
    "HeadSpec",
    "Labeller",
    "Masked",
    "Masker",
    "Metric",
    "Modality",
    "ModalitySpec",
    "Predicted",
    "Run",
    "SampleError",
    "SampleSource",
    "Sequence",
    "Settings",
    "SpecialTokens",
    "Text",
    "TextTokenizer",
    "TokenSpace",
    "Tokenizer",
    "TokenizerRecipe",
    "Vector",
    "View",
    "hookimpl",
]

#: Module -> the names above that it defines.
_HOMES = {
    "hookspecs": "Run hookimpl",
    "masker": "MASK Masked Masker SpecialTokens",
    "errors": "SampleError",
    "head": "HeadFeatures HeadSpec",
    "modality": "Labeller Metric Modality",
    "order": "DecodingOrder Predicted",
    "settings": "Settings",
    "source": "SampleSource",
    "spec": "ClassMap FeatureMap FeatureVector Grid ModalitySpec Sequence Text TokenizerRecipe TokenSpace Vector",
    "tokenizer": "TextTokenizer Tokenizer",
    "view": "View",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value

"""The claims that a plugin may make, and those implied by its spec and its class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, FeatureMap, Text

#: What a plugin may claim, and what that means. Claims of `implied` follow from the spec; others are made by the class
#: (`Modality.claims`) or the test.
CLAIMS = {
    "tokens": "has a token space, so that it is tokenized",
    "input": "may be shown to the model",
    "target": "may be predicted by the model",
    "aligned": "shares the crop and flip of its alignment group",
    "picture": "is seen as a picture that crops and flips move: a map of rows and columns, or what `render` draws",
    "grid": "is aligned and its array has rows and columns",
    "text": "is aligned and its array is text",
    "constants": "names the best constant predictors",
    "metrics": "has metrics",
    "directions": "holds vectors whose first component points to the right: it changes its sign under a flip",
    "no_directions": "holds colours, quantities or features, of which a flip changes none: not `directions`",
    "exact_files": "reads back from its files exactly what it wrote",
}


def implied(modality: Modality[Any], example: Callable[[], Any]) -> frozenset[str]:
    """Claims that follow from the spec and the class. `example` makes a value, which is rendered if the spec does not
    determine whether it is a picture."""
    spec = modality.spec
    claims = {name for name, holds in (("input", spec.input), ("target", spec.target)) if holds}
    if not spec.continuous:
        claims.add("tokens")
    if spec.alignment is not None:
        claims.add("aligned")
        if isinstance(spec.array, (FeatureMap, ClassMap)):
            claims |= {"grid", "picture"}
        elif _draws_pictures(modality, example):
            claims.add("picture")
        if isinstance(spec.array, Text):
            claims.add("text")
    if _has_metrics(modality):
        claims.add("metrics")
    if type(modality).constants is not Modality.constants:
        claims.add("constants")
    return frozenset(claims)


def _draws_pictures(modality: Modality[Any], example: Callable[[], Any]) -> bool:
    try:
        return isinstance(modality.render(example()), Image.Image)
    except Exception:  # the check of `render` reports it
        return False


def _has_metrics(modality: Modality[Any]) -> bool:
    try:
        return bool(modality.metrics())
    except Exception:  # the check of the metrics reports it
        return True

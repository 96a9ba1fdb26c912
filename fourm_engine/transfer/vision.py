"""Lazy import of torchvision, an optional extra, of which only the Python parts are used."""

from __future__ import annotations

from types import ModuleType

import torch

from fourm_plugins.extras import optional

EXTRA = "fourm-engine[detect]"
#: Operators for which torchvision registers fake implementations on import, whether or not they could be loaded.
_DESCRIBED = ("nms", "qnms")
_declared: list[torch.library.Library] = []


def torchvision(module: str, *, what: str) -> ModuleType:
    """Import a module of torchvision, such as "ops". `what`: the feature that needs it, as in `optional`. Raises
    ValueError if it is not installed.

    Wheels on PyPI are compiled for CUDA. With a CPU-only torch, their operators do not load, and the import fails at
    the first fake implementation. Declaring these operators, which are never called, lets it succeed."""
    name = f"torchvision.{module}"
    try:
        return optional(name, what=what, install=EXTRA)
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise ValueError(f"{what} torchvision, which does not fit torch {torch.__version__}: {error}") from error
    _declared.append(library := torch.library.Library("torchvision", "FRAGMENT"))
    for operator in _DESCRIBED:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return torchvision(module, what=what)

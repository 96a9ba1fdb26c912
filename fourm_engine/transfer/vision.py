"""torchvision, an extra, imported where it is used: the parts of it that are written in Python."""

from __future__ import annotations

from types import ModuleType

import torch

from fourm_plugins.extras import optional

EXTRA = "fourm-engine[detect]"
#: Operators that torchvision describes as it is imported, whether or not they could be loaded.
_DESCRIBED = ("nms", "qnms")
_declared: list[torch.library.Library] = []


def torchvision(module: str, *, what: str) -> ModuleType:
    """A module of torchvision, such as "ops"; `what` needs it, as in `optional`. Raises ValueError where it is not
    installed.

    The wheels of package indexes are compiled for CUDA: beside a torch for the CPU alone their operators do not load,
    and the import stops at the first that torchvision describes. Declared, but never called, they let it go on."""
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

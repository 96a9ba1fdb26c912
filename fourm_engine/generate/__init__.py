"""Tokens from tokens. In: what a user gives of some modalities, and a plan of stages, one for each target. Out: the ids
of the targets, which `FourM` decodes to values."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm_engine.generate.inputs import Condition, Ids, Typed
    from fourm_engine.generate.plan import Options, Stage, default_plan
    from fourm_engine.generate.result import Generated

__all__ = ["Condition", "Generated", "Ids", "Options", "Stage", "Typed", "default_plan"]

_PLACES = {
    "Condition": "inputs",
    "Generated": "result",
    "Ids": "inputs",
    "Options": "plan",
    "Stage": "plan",
    "Typed": "inputs",
    "default_plan": "plan",
}


def __getattr__(name: str) -> Any:
    # Lazy, since configs hold `Options` and are read by commands that need no torch.
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Generation, from tokens to tokens: inputs from a user and a plan of stages, one a target, give the ids of the
targets. `FourM` decodes them to values."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm_engine.generate.given import Condition, Ids, Typed
    from fourm_engine.generate.options import Options
    from fourm_engine.generate.plan import Stage, default_plan
    from fourm_engine.generate.result import Generated

__all__ = ["Condition", "Generated", "Ids", "Options", "Stage", "Typed", "default_plan"]

_MODULES = {
    "Condition": "given",
    "Generated": "result",
    "Ids": "given",
    "Options": "options",
    "Stage": "plan",
    "Typed": "given",
    "default_plan": "plan",
}


def __getattr__(name: str) -> Any:
    # Lazy, because configs use `Options`, and the commands that read them do not need torch.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

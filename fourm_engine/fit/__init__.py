"""Fits tokenizers: from the arrays of a token space to a fitted tokenizer in its folder, and its metrics.

report = fit_network(tokenizer, arrays)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm_engine.fit.fitting import fit_network

__all__ = ["fit_network"]


def __getattr__(name: str) -> Any:
    if name != "fit_network":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fourm_engine.fit.fitting import fit_network  # lazy, so that the config does not pay for importing torch

    return fit_network

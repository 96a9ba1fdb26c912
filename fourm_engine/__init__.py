"""The engine: builds one vocabulary from the modality plugins that are installed, trains one encoder-decoder on it, and
predicts any modality from any others.

    import fourm_engine as fm
    model = fm.FourM.from_pretrained("runs/demo")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm_engine.model import FourM

__all__ = ["FourM"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `fourm plugins list` and the configs do not pay for importing torch.
    if name == "FourM":
        from fourm_engine.model import FourM

        return FourM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

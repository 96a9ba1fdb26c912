"""The engine: builds one vocabulary from the modality plugins that are installed, trains one encoder-decoder on it, and
predicts any modality from any others.

    import fourm_engine as fm
    model = fm.FourM.from_pretrained("runs/demo")
    tokenizer = fm.load_tokenizer("runs/demo/model/tokenizers/some")
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm_engine.convert.tokenizers import open_tokenizer as load_tokenizer
    from fourm_engine.features.encoder import encoder
    from fourm_engine.generate.inputs import Condition, Ids, Typed
    from fourm_engine.model import FourM
    from fourm_engine.transfer.model import load_head

__all__ = ["Condition", "FourM", "Ids", "Typed", "encoder", "load_head", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `fourm plugins list` and the configs do not pay for importing torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    collects = gc.isenabled()
    gc.disable()  # a full collection amid the imports would visit every object of torch, which takes 0.1 s
    try:
        if name == "load_tokenizer":
            return import_module("fourm_engine.convert.tokenizers").open_tokenizer
        if name == "load_head":
            return import_module("fourm_engine.transfer.model").load_head
        if name == "encoder":
            return import_module("fourm_engine.features.encoder").encoder
        return getattr(import_module(f"fourm_engine.{'model' if name == 'FourM' else 'generate.inputs'}"), name)
    finally:
        if collects:
            gc.enable()

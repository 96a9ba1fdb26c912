"""The engine: builds one vocabulary from the modality plugins that are installed, trains one encoder-decoder on it, and
predicts any modality from any others.

    import fourm_engine as fm
    model = fm.FourM.from_pretrained("runs/demo")
    out = model.generate({given: "photo.jpg"}, target)

FourM            a trained model: generate, edit, encode, save
Stage            one step of a plan: a target and how it is generated
Guide            a weaker version of a model, to lead away from
Condition        an input of which a part is known, or that has a guidance weight
Ids, Typed       token ids, and text that is meant as text, as inputs
animate          the steps of a generation as a GIF or APNG
edit_many        edits of the samples of folders, as a data set
generate_many    a data set from a folder, a data set or JSON lines
generate_tiled   a target of a picture that is larger than a model sees, tile by tile
calibration      whether the spread of samples predicts their error
encoder          features of a model's encoder, for transfer
load_head        an encoder with a head that `fourm finetune` trained
load_tokenizer   a tokenizer by itself
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourm_engine.convert.tokenizers import open_tokenizer as load_tokenizer
    from fourm_engine.evaluate.animation import animate
    from fourm_engine.generate.combine import calibration
    from fourm_engine.generate.guidance import Guide
    from fourm_engine.generate.input_types import Condition, Ids, Typed
    from fourm_engine.generate.plan import Stage
    from fourm_engine.generate.tiles import generate_tiled
    from fourm_engine.model import FourM
    from fourm_engine.recipes.edit_many import edit_many
    from fourm_engine.recipes.generate_many import generate_many
    from fourm_engine.transfer.encoder import encoder
    from fourm_engine.transfer.model import load_head

    __version__: str

__all__ = [
    "Condition",
    "FourM",
    "Guide",
    "Ids",
    "Stage",
    "Typed",
    "animate",
    "calibration",
    "encoder",
    "load_head",
    "load_tokenizer",
    "edit_many",
    "generate_many",
    "generate_tiled",
]

#: Name -> the module it is in, and its name there.
_MODULES = {
    "Condition": ("generate.input_types", "Condition"),
    "FourM": ("model", "FourM"),
    "Guide": ("generate.guidance", "Guide"),
    "Ids": ("generate.input_types", "Ids"),
    "Stage": ("generate.plan", "Stage"),
    "Typed": ("generate.input_types", "Typed"),
    "animate": ("evaluate.animation", "animate"),
    "calibration": ("generate.combine", "calibration"),
    "encoder": ("transfer.encoder", "encoder"),
    "load_head": ("transfer.model", "load_head"),
    "load_tokenizer": ("convert.tokenizers", "open_tokenizer"),
    "edit_many": ("recipes.edit_many", "edit_many"),
    "generate_many": ("recipes.generate_many", "generate_many"),
    "generate_tiled": ("generate.tiles", "generate_tiled"),
}


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__version__"])


def __getattr__(name: str) -> Any:
    # Lazy, so that `fourm plugins list` and the configs do not pay for importing torch.
    if name == "__version__":
        return import_module("importlib.metadata").version("fourm-engine")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    collects = gc.isenabled()
    gc.disable()  # a full collection amid the imports would visit every object of torch, which takes 0.1 s
    try:
        module, attribute = _MODULES[name]
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    finally:
        if collects:
            gc.enable()

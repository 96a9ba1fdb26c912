"""Embeds pictures and texts in one space with a contrastive model of `transformers` (CLIP, SigLIP and others with
features of both kinds).

In: pictures uint8 (H, W, 3), or texts, and the model's folder or Hub id. Out: unit vectors float32 (n, D); the dot
product of a picture and a text is their similarity. A model is loaded once for both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm_plugins.labelling import NetworkOptions, PictureNetwork, load_words

_WHAT = "a contrastive model of pictures and texts"


class Contrastive:
    """Raises ValueError, one line, if a package is not installed or the model cannot be used."""

    def __init__(self, model: str, *, install: str) -> None:
        self._net = PictureNetwork(
            model, ["AutoModel"], what=_WHAT, install=install, options=NetworkOptions(), spare=("pooler",)
        )
        network = self._net.network
        if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
            raise ValueError(f"{model}: {type(network).__name__} is not {_WHAT}; name one such as a CLIP")
        self._words = load_words(model)

    def pictures(self, values: Sequence[np.ndarray]) -> np.ndarray:
        def compute(inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[np.ndarray]:
            return list(_units(self._net.network.get_image_features(pixel_values=inputs["pixel_values"])))

        return np.stack(self._net.run(values, compute))

    def texts(self, values: Sequence[str]) -> np.ndarray:
        import torch

        device, rows = self._net.network.device, []
        for start in range(0, len(values), 64):
            # SigLIP was trained on texts padded to its maximum length; for CLIP padding changes nothing.
            words = self._words(
                list(values[start : start + 64]),
                padding="max_length",
                truncation=True,
                max_length=self._net.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            known = {name: words[name].to(device) for name in ("input_ids", "attention_mask") if name in words}
            with torch.inference_mode():
                rows.append(_units(self._net.network.get_text_features(**known)))
        return np.concatenate(rows)


@functools.lru_cache(maxsize=2)
def contrastive(model: str, *, install: str) -> Contrastive:
    """The model, loaded once. `install`: the distribution with its extra that provides torch and transformers."""
    return Contrastive(model, install=install)


def _units(features: Any) -> np.ndarray:
    """Unit vectors of a tensor (B, D), or of the output object that transformers 5 wraps it in."""
    features = getattr(features, "pooler_output", features).float().cpu().numpy()
    units: np.ndarray = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return units

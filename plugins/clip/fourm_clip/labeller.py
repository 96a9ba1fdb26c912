"""ClipLabeller: feature maps of pictures from a CLIP model in the format of `transformers`, published or private.

Takes pictures uint8 (H, W, 3) of any size and gives float32 (rows, columns, channels): a unit vector for each patch of
the model's vision transformer, its last hidden states without the class token, after the final norm and the projection
into the space shared with text. Torch and transformers are imported when a labeller is made (`pip install
'fourm-clip[label]'`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from fourm_plugins import Labeller
from fourm_plugins.labelling import NetworkOptions, check_picture, load_network

# Colour statistics of OpenAI's CLIP, for a model stored without preprocessor_config.json.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ClipLabeller(Labeller):
    """`model`: a folder or Hub id that holds safetensors."""

    def __init__(self, model: str, options: NetworkOptions) -> None:
        install, self.batch_size = "fourm-clip[label]", options.batch_size
        what, device = "a CLIP model", options.device
        self._model: Any = load_network(model, ["CLIPModel"], what=what, install=install, device=device)
        from transformers.utils import cached_file

        self._size: int = self._model.config.vision_config.image_size
        self.channels: int = self._model.config.projection_dim
        path = cached_file(model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        stored = {}
        if path is not None:
            with open(path, encoding="utf-8") as file:
                stored = json.load(file)
        self._mean = np.array(stored.get("image_mean", _MEAN), np.float32)
        self._deviation = np.array(stored.get("image_std", _DEVIATION), np.float32)

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The whole picture is squeezed into the model's square, not cropped, so that the map covers all of it."""
        import torch

        features: list[np.ndarray] = []
        for start in range(0, len(values), self.batch_size):
            pixels = np.stack([self._pixels(value) for value in values[start : start + self.batch_size]])
            with torch.inference_mode():
                vision, inputs = self._model.vision_model, torch.from_numpy(pixels).to(self._model.device)
                hidden_BND = vision(pixel_values=inputs).last_hidden_state[:, 1:]
                out_BNC = self._model.visual_projection(vision.post_layernorm(hidden_BND))
                out_BNC = torch.nn.functional.normalize(out_BNC, dim=-1).cpu()
            side = int(out_BNC.shape[1] ** 0.5)
            features.extend(out_BNC.reshape(-1, side, side, self.channels).numpy())
        return features

    def _pixels(self, value: np.ndarray) -> np.ndarray:
        """float32 (3, size, size) of a picture."""
        squeezed = Image.fromarray(check_picture(value)).resize((self._size, self._size), Image.Resampling.BICUBIC)
        return ((np.asarray(squeezed, np.float32) / 255 - self._mean) / self._deviation).transpose(2, 0, 1)

"""Perceptual loss: the distance of a reconstruction from its target in the features of a pretrained, frozen vision
model (Zhang et al., arXiv 1801.03924, without learned weights).

In: two batches of pictures (B, 3, H, W) in a modality's own normalisation. Out: (B,) distances: the squared distance
between features scaled to unit length, averaged over positions and layers.

The model comes from `transformers` or `timm`, by name or folder. It is loaded when the first loss is computed, so that
a fitted tokenizer needs neither the library nor the model; it is not part of the tokenizer's weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.tokenizers.quantisers.base import full_precision
from fourm_plugins.errors import first_line
from fourm_plugins.hub import check_there
from fourm_plugins.settings import Settings

PERCEPTUAL = "perceptual"


class PerceptualSettings(Settings):
    """`model`: a folder, a Hub id, or for timm also one of its names."""

    model: str
    library: Literal["transformers", "timm"] = "transformers"
    weight: float = Field(default=0.1, gt=0)
    #: Layers to compare, numbered as the library returns them; null: all.
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    #: Numbers that mean black and white in the modality's arrays, one or one per channel.
    black: float | tuple[float, float, float] = -1.0
    white: float | tuple[float, float, float] = 1.0


class Perceptual:
    """Deliberately not an `nn.Module`: its owner must not train, move, save or shard the model."""

    def __init__(self, settings: PerceptualSettings) -> None:
        self.settings = settings
        self._backbone: _Backbone | None = None

    def __call__(self, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
        """(B,) distances; gradients flow to `x`. Raises ValueError if the model cannot be loaded."""
        if self._backbone is None:
            self._backbone = _load(self.settings)
        backbone = self._backbone.to(x_BCHW.device)
        with full_precision(x_BCHW):  # differences of nearly equal features
            features = backbone(self._unit(x_BCHW))
            with torch.no_grad():
                targets = backbone(self._unit(y_BCHW))
            distances = [(a - b).square().sum(-1).mean(1) for a, b in zip(features, targets, strict=True)]
            return torch.stack(distances).mean(0)

    def _unit(self, x_BCHW: Tensor) -> Tensor:
        """Rescale to black 0, white 1."""
        black, white = (
            torch.as_tensor(value, device=x_BCHW.device, dtype=torch.float32).reshape(-1, 1, 1)
            for value in (self.settings.black, self.settings.white)
        )
        return (x_BCHW.float() - black) / (white - black)


class _Backbone(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] -> features (B, positions, D) of unit length, one tensor per layer."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Any,
        deviation: Any,
        size: tuple[int, int] | None,
        layers: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.network = network.float().eval().requires_grad_(False)
        self.size, self.layers = size, layers
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        if self.size is not None and tuple(x_BCHW.shape[-2:]) != self.size:
            x_BCHW = F.interpolate(x_BCHW, size=self.size, mode="bilinear", align_corners=False, antialias=True)
        features = self.features((x_BCHW - self.mean) / self.deviation)
        if self.layers is not None:
            if max(self.layers) >= len(features) or min(self.layers) < -len(features):
                raise ValueError(f"perceptual.layers {list(self.layers)}: the model's are 0 to {len(features) - 1}")
            features = [features[layer] for layer in self.layers]
        return [F.normalize(layer.float(), dim=-1) for layer in features]

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        raise AssertionError("a library's own")


class _Transformers(_Backbone):
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        hidden = self.network(pixel_values=x_BCHW, output_hidden_states=True).hidden_states
        return [layer.flatten(2).transpose(1, 2) if layer.ndim == 4 else layer for layer in hidden]


class _Timm(_Backbone):
    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        channels = self.network.feature_info.channels()  # type: ignore[union-attr,operator]
        maps = self.network(x_BCHW)
        # Most models give (B, C, h, w), some (B, h, w, C).
        last = [layer if layer.shape[-1] == n else layer.permute(0, 2, 3, 1) for layer, n in zip(maps, channels)]
        return [layer.flatten(1, 2) for layer in last]


def _load(settings: PerceptualSettings) -> _Backbone:
    make = _from_timm if settings.library == "timm" else _from_transformers
    try:
        check_there(settings.model)
        return make(settings)
    except ImportError as error:
        raise ValueError(f"the perceptual loss needs `pip install {settings.library}`: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"perceptual.model {settings.model!r}: {first_line(error)}") from error


def _from_transformers(settings: PerceptualSettings) -> _Backbone:
    from transformers import AutoModel
    from transformers.utils import cached_file

    network: Any = AutoModel.from_pretrained(settings.model, use_safetensors=True)
    network = getattr(network, "vision_model", network)  # models of pictures and text
    if network.main_input_name != "pixel_values":
        raise ValueError(f"a {type(network).__name__} does not look at pictures")
    size = getattr(network.config, "image_size", None)
    stored: dict[str, Any] = {}
    path = cached_file(settings.model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    if path is not None:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    return _Transformers(
        network,
        mean=stored.get("image_mean", [0.5] * 3),
        deviation=stored.get("image_std", [0.5] * 3),
        size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
        layers=settings.layers,
    )


def _from_timm(settings: PerceptualSettings) -> _Backbone:
    import timm

    name = settings.model
    if Path(name).is_dir():
        name = f"local-dir:{name}"
    elif "/" in name and ":" not in name:
        name = f"hf-hub:{name}"
    network: Any = timm.create_model(name, pretrained=True, features_only=True)
    facts = timm.data.resolve_model_data_config(network)
    size = tuple(facts["input_size"][-2:])
    return _Timm(network, mean=facts["mean"], deviation=facts["std"], size=size, layers=settings.layers)

"""Heads that make a vector of each sample: from the mean of its tokens, or from what learned queries attend to."""

from __future__ import annotations

from torch import Tensor, nn

from fourm_engine.nn.blocks import layer_norm
from fourm_engine.nn.pooling import AttentivePooling
from fourm_plugins.head import HeadFeatures, HeadSpec

#: Of the output weights: small, so that all classes start alike.
OUTPUT_STD = 0.01
#: Width of an attention head, where its number is not set.
HEAD_WIDTH = 64


def _output(spec: HeadSpec, name: str) -> nn.Linear:
    if spec.size is not None or spec.levels:
        wanted = "boxes; use fcos" if spec.levels else "maps; use convnext or pyramid"
        raise ValueError(f"{name} makes one vector a sample, and the task wants {wanted}")
    layer = nn.Linear(spec.width, spec.outputs)
    nn.init.normal_(layer.weight, std=OUTPUT_STD)
    nn.init.zeros_(layer.bias)
    return layer


class Linear(nn.Module):
    """A linear layer on the mean of the tokens, with `norm` on its LayerNorm."""

    def __init__(self, spec: HeadSpec, *, norm: bool = True) -> None:
        super().__init__()
        self.norm = layer_norm(spec.width, bias=True) if norm else nn.Identity()
        self.output = _output(spec, "linear")

    def forward(self, features: HeadFeatures) -> Tensor:
        return self.output(self.norm(features.pooled()))


class Attentive(nn.Module):
    """A linear layer on the LayerNorm of what `queries` learned queries attend to, with so many attention `heads`."""

    def __init__(self, spec: HeadSpec, *, queries: int = 1, heads: int | None = None) -> None:
        super().__init__()
        heads = heads or (spec.width // HEAD_WIDTH if spec.width % HEAD_WIDTH == 0 else 1)
        if spec.width % heads:
            raise ValueError(f"heads={heads} does not divide the width, {spec.width}")
        self.pooling = AttentivePooling(spec.width, heads, queries=queries)
        self.norm = layer_norm(spec.width, bias=True)
        self.output = _output(spec, "attentive")

    def forward(self, features: HeadFeatures) -> Tensor:
        return self.output(self.norm(self.pooling(features.tokens, features.valid)))

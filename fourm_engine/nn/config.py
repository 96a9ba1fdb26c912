"""The shape of a model: `ModelConfig`, and the paper's sizes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# 4M, table of model sizes (XL: 4M-21): width, encoder blocks, decoder blocks, heads.
SIZES: dict[str, dict[str, int]] = {
    "Ti": {"width": 384, "encoder_blocks": 6, "decoder_blocks": 6, "heads": 6},
    "S": {"width": 512, "encoder_blocks": 8, "decoder_blocks": 8, "heads": 8},
    "B": {"width": 768, "encoder_blocks": 12, "decoder_blocks": 12, "heads": 12},
    "L": {"width": 1024, "encoder_blocks": 24, "decoder_blocks": 24, "heads": 16},
    "XL": {"width": 2048, "encoder_blocks": 24, "decoder_blocks": 24, "heads": 32},
}


#: Far beyond any model: a larger value is a typo, or a hostile file, and would take hours to build.
MAX_WIDTH, MAX_BLOCKS = 1 << 15, 1 << 10
#: What a block stores for the backward pass: see `fourm_engine.nn.wrappers`.
Checkpointing = Literal["none", "selective", "full"]


class ModelConfig(BaseModel):
    """Shape of the encoder-decoder: either `size`, or the four numbers `width` … `heads`.

    The published models are `mlp="gelu", bias=True` and `mlp="swiglu", bias=False`, these with and without `qk_norm`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    size: Literal["Ti", "S", "B", "L", "XL"] | None = Field(
        None, description="a size of the paper, which fills in the four numbers below"
    )
    width: int = Field(gt=0, le=MAX_WIDTH, description="width D of the residual stream, a multiple of 4 and of `heads`")
    encoder_blocks: int = Field(ge=0, le=MAX_BLOCKS, description="blocks of the encoder")
    decoder_blocks: int = Field(ge=1, le=MAX_BLOCKS, description="blocks of the decoder")
    heads: int = Field(gt=0, description="attention heads")
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="hidden width of the MLP over D (SwiGLU: two thirds of it)")
    mlp: Literal["gelu", "swiglu"] = Field("swiglu", description="`gelu` or `swiglu`")
    bias: bool = Field(False, description="biases in attention, MLP and norms")
    qk_norm: bool = Field(False, description="LayerNorm over each head's queries and keys")
    stem: Literal["linear", "conv"] = Field(
        "linear",
        description="what embeds patches of continuous grids, such as pixels: `linear`, a projection of each patch, as "
        "published; `conv`, also convolutions over the patches shown, for small models and little data",
    )
    registers: int = Field(0, ge=0, le=4096, description="learned tokens added to every sample in the encoder")
    decoder_causal: bool = Field(False, description="targets of grids, too, attend only to earlier positions")

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("compile") is False:  # older folders contain this former setting
            data = {key: value for key, value in data.items() if key != "compile"}
        return filled_size(data, SIZES)

    @model_validator(mode="after")
    def _check_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}; choose one that is")
        if self.width % 4:
            raise ValueError(f"width={self.width} is not a multiple of 4, which 2-D positions need; choose one that is")
        return self


class LoraConfig(BaseModel):
    """Low-rank adapters for weight matrices (LoRA, arXiv 2106.09685)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Rank of the adapters.
    rank: int = Field(default=8, ge=1, le=4096)
    #: Adapters are scaled by alpha / rank.
    alpha: float = Field(default=16.0, gt=0)
    #: Linear layers to adapt, by name or prefix, with `*` for any part, such as `encoder.*.attn.qkv`. By default those
    #: of attention and MLP in every block.
    matrices: list[str] = Field(default=["encoder", "decoder"], min_length=1)


def filled_size(data: Any, sizes: dict[str, dict[str, int]]) -> Any:
    """The settings, completed with the numbers of their `size` in `sizes`. Raises ValueError for a contradiction."""
    if not isinstance(data, dict) or not isinstance(data.get("size"), str) or data["size"] not in sizes:
        return data
    preset = sizes[data["size"]]
    for name, number in preset.items():
        given = data.get(name)
        if given is not None and given != number:
            size = data["size"]
            raise ValueError(f"{name}={given} contradicts {size=}, whose {name} is {number}; leave one out")
    return {**data, **preset}

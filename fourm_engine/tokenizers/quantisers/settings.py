"""CodebookSettings: how the latents of a learned tokenizer are quantised, and the quantiser that they configure.

The token space determines the number of codes; settings that give another number are rejected, with a suggestion.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from fourm_engine.tokenizers.quantisers.base import COMMITMENT, ENTROPY, Quantiser
from fourm_engine.tokenizers.quantisers.fsq import FiniteScalarQuantiser
from fourm_engine.tokenizers.quantisers.lfq import LookupFreeQuantiser
from fourm_engine.tokenizers.quantisers.product import ProductQuantiser
from fourm_engine.tokenizers.quantisers.vq import VectorQuantiser
from fourm_plugins.settings import Settings

_VQ_ONLY = ("latent_dim", "heads", "normalise_codes", "decay", "restart_below", "restart", "warmup", "kmeans_start")
_LFQ_ONLY = ("entropy", "temperature")


class CodebookSettings(Settings):
    """Shared by the kinds of tokenizers that are networks."""

    #: "vq": a learned codebook; "fsq": a few levels a dimension; "lfq": signs, with an entropy loss.
    quantiser: Literal["vq", "fsq", "lfq"] = "vq"

    # vq
    latent_dim: int = Field(default=16, ge=1, le=4096)
    #: Parts of the latent with a codebook each; heads of K codes make K^heads codes of the token space.
    heads: int = Field(default=1, ge=1, le=64)
    #: Compare latents and codes by cosine, or by Euclidean distance.
    normalise_codes: bool = True
    decay: float = Field(default=0.99, gt=0, lt=1)
    #: Codes used less than this share of the mean are restarted; 0 never restarts.
    restart_below: float = Field(default=0.05, ge=0, lt=1)
    #: Restart them at latents of the batch, or by splitting codes that are used much.
    restart: Literal["batch", "split"] = "batch"
    #: Share of the steps in which a plain autoencoder is trained, before the codes are placed.
    warmup: float = Field(default=0.2, ge=0, lt=1)
    #: Place the codes by k-means on recent latents, or at random.
    kmeans_start: bool = True

    # fsq
    #: Levels of each dimension of the latent, such as [8, 5, 5, 5] for 1000 codes.
    levels: tuple[int, ...] | None = None

    # lfq
    #: Weight of the entropy term.
    entropy: float = Field(default=0.1, ge=0)
    #: Of the distributions behind it: lower means less to latents far from zero.
    temperature: float = Field(default=1.0, gt=0)

    #: Weight of the distance between latents and codes, for vq and lfq. For lfq the default is 0.1: more makes latents
    #: settle on the code that they are next to at first.
    commitment: float = Field(default=1.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _commitment_of_lfq(cls, data: Any) -> Any:
        return {"commitment": 0.1} | data if isinstance(data, dict) and data.get("quantiser") == "lfq" else data

    @model_validator(mode="after")
    def _fits_quantiser(self) -> CodebookSettings:
        others = (*(() if self.quantiser == "vq" else _VQ_ONLY), *(() if self.quantiser == "lfq" else _LFQ_ONLY))
        for name in others:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is not a setting of quantiser {self.quantiser!r}; leave it out")
        if (self.levels is not None) != (self.quantiser == "fsq"):
            raise ValueError(f"levels={self.levels} and quantiser={self.quantiser!r}: 'fsq' needs levels")
        if self.levels is not None and (not self.levels or min(self.levels) < 3 or max(self.levels) > 256):
            raise ValueError(f"levels={list(self.levels)}: each must be in 3…256 (for two levels take 'lfq')")
        if self.quantiser == "vq" and self.latent_dim % self.heads:
            raise ValueError(f"latent_dim {self.latent_dim} does not divide into {self.heads} heads")
        return self

    def quantiser_weights(self, quantiser: Quantiser) -> dict[str, float]:
        """The weight of each of the quantiser's loss terms."""
        return {name: {COMMITMENT: self.commitment, ENTROPY: self.entropy}[name] for name in quantiser.loss_names}


def make_quantiser(settings: CodebookSettings, size: int, *, seed: int = 0) -> Quantiser:
    """The quantiser of `size` codes. Raises ValueError if the settings give another number of codes."""
    if settings.quantiser == "fsq":
        assert settings.levels is not None
        if (made := math.prod(settings.levels)) != size:
            shown = "x".join(map(str, settings.levels))
            raise ValueError(
                f"levels {shown} make {made} codes, the token space has {size}; set its size "
                f"(codebook_size) to {made}, or choose other levels"
            )
        return FiniteScalarQuantiser(settings.levels)
    if settings.quantiser == "lfq":
        bits = size.bit_length() - 1
        if size != 1 << bits:
            raise ValueError(
                f"quantiser 'lfq' has 2^bits codes, the token space {size}; set its size (codebook_size) to "
                f"{1 << bits} or {2 << bits}"
            )
        return LookupFreeQuantiser(bits, temperature=settings.temperature)
    heads = settings.heads
    radix = round(size ** (1 / heads))
    if radix**heads != size or radix < 2:
        near = max(2, radix)
        raise ValueError(
            f"{heads} heads of {near} codes make {near**heads} codes, the token space has {size}; set its size "
            f"(codebook_size) to {near**heads}, or choose another number of heads"
        )
    alike = ("decay", "restart_below", "restart", "warmup", "kmeans_start")
    options: dict[str, Any] = {name: getattr(settings, name) for name in alike}
    vector_quantisers: list[Quantiser] = [
        VectorQuantiser(
            radix, settings.latent_dim // heads, normalise=settings.normalise_codes, seed=seed + head, **options
        )
        for head in range(heads)
    ]
    return vector_quantisers[0] if heads == 1 else ProductQuantiser(vector_quantisers)

"""Tokenizer of global feature vectors (as in 4M-21): an MLP to a few tokens, a quantiser, an MLP back.

Feature vectors (B, size), of order 1, become one id for each of the layout's tokens, and back. By default each token
has its own codebook.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fourm_engine.nn.blocks import Mlp, layer_norm
from fourm_engine.tokenizers.losses import LOSSES, LossName, loss_weights
from fourm_engine.tokenizers.network import TokenizerNetwork
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.quantisers.product import PositionQuantiser
from fourm_engine.tokenizers.quantisers.settings import CodebookSettings, make_quantiser
from fourm_plugins.spec import FeatureVector, ModalitySpec, Vector


class MLPSettings(CodebookSettings):
    """Sizes, loss and codebooks. The token space gives the number of codes, the layout that of tokens."""

    width: int = Field(default=512, ge=1, le=16384)
    #: Residual MLP blocks of the encoder, and of the decoder.
    blocks: int = Field(default=2, ge=0, le=64)
    mlp_ratio: float = Field(default=2.0, gt=0, le=64)
    #: Whether each token has its own codes.
    codebooks: Literal["per_token", "shared"] = "per_token"
    #: Terms of the reconstruction loss and their weights; default: mse.
    loss: dict[LossName, float] | None = Field(default=None, min_length=1)


class _Residual(nn.Module):
    """x + mlp(norm x)."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.norm = layer_norm(width, bias=True)
        self.mlp = Mlp(width, ratio=ratio, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


def _mlp(size_in: int, size_out: int, settings: MLPSettings) -> nn.Sequential:
    width = settings.width
    blocks = [_Residual(width, settings.mlp_ratio) for _ in range(settings.blocks)]
    return nn.Sequential(
        nn.Linear(size_in, width), *blocks, layer_norm(width, bias=True), nn.GELU(), nn.Linear(width, size_out)
    )


class MLPAutoencoder(TokenizerNetwork):
    """`forward` takes feature vectors (B, size)."""

    def __init__(self, spec: ModalitySpec, settings: MLPSettings) -> None:
        super().__init__()
        assert isinstance(spec.array, FeatureVector)
        assert spec.token_space is not None
        self.tokens, codes = spec.layout.num_tokens, spec.token_space.size
        if settings.codebooks == "per_token":
            # Seeds further apart than the number of heads of a quantiser.
            heads = [make_quantiser(settings, codes, seed=64 * n) for n in range(self.tokens)]
            self.quantiser = PositionQuantiser(heads)
        else:
            self.quantiser = make_quantiser(settings, codes)
        self.loss_names = tuple(loss_weights(settings.loss, spec))
        self.encoder = _mlp(spec.array.size, self.tokens * self.quantiser.dim, settings)
        self.decoder = _mlp(self.tokens * self.quantiser.dim, spec.array.size, settings)

    def latents(self, x: Tensor) -> Tensor:
        return self.encoder(x).unflatten(-1, (self.tokens, self.quantiser.dim))

    def reconstruct(self, latents_BNd: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(latents_BNd.flatten(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        quantised = self.quantiser(self.latents(x))
        output = self.reconstruct(quantised.latents).float()
        sums = {name: values.sum() for name, values in quantised.losses.items()}
        return sums | {name: LOSSES[name](output, x).sum() for name in self.loss_names}


class MLPTokenizer(NeuralTokenizer):
    """Kind `mlp`."""

    kind = "mlp"
    Settings = MLPSettings

    def make_network(self) -> MLPAutoencoder:
        spec = self.spec
        if not (isinstance(spec.layout, Vector) and isinstance(spec.array, FeatureVector)):
            raise ValueError(
                f"{spec.name}: an mlp tokenizer makes a vector of tokens of a feature vector, not a "
                f"{spec.layout.kind} of a {spec.array.kind}"
            )
        if spec.array.gaps:
            raise ValueError(f"{spec.name}: an mlp tokenizer needs every number; with gaps take kind 'bins'")
        return MLPAutoencoder(spec, self.settings)

    def counts(self, arrays: Tensor) -> dict[str, float]:
        """Latents, and vectors."""
        counts = dict.fromkeys(self.network.quantiser.loss_names, float(self.tokens(arrays)))
        return counts | dict.fromkeys(loss_weights(self.settings.loss, self.spec), float(len(arrays)))

    def weights(self) -> dict[str, float]:
        return self.settings.quantiser_weights(self.network.quantiser) | loss_weights(self.settings.loss, self.spec)

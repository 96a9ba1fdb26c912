"""VQ-VAE of grids (4M, appendix B): a ViT encoder, a codebook, a ViT decoder.

In: feature maps (pictures, depth, normals; NaN in gaps, taken as 0 and left out of the loss) or class maps
(-1 where a pixel has no class, left out of the loss). Out: one id for each patch, and maps from ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.tokenizers.neural import NeuralTokenizer, TokenizerNetwork
from fourm_engine.tokenizers.quantise import VectorQuantiser
from fourm_engine.tokenizers.vit import CodecSettings, ViTDecoder, ViTEncoder
from fourm_plugins.modality import Settings
from fourm_plugins.spec import ClassMap, FeatureMap, Grid, ModalitySpec

LossName = Literal["mse", "l1", "smooth_l1", "cosine", "cross_entropy"]
COMMITMENT = "commitment"


class VQVAESettings(Settings):
    """Sizes, loss and codebook. The number of codes is the token space's."""

    encoder: CodecSettings = CodecSettings(blocks=0)
    decoder: CodecSettings = CodecSettings(blocks=2)
    latent_dim: int = Field(default=16, ge=1, le=4096)
    #: Channels in which class ids are embedded, for class maps.
    class_dim: int = Field(default=8, ge=1, le=4096)
    #: Terms of the reconstruction loss and their weights. Default: cross_entropy for class maps, mse for the others.
    #: "cosine" is 1 − cos between the channel vectors of a pixel.
    loss: dict[LossName, float] | None = None
    #: Compare latents and codes by cosine, or by Euclidean distance.
    normalise_codes: bool = True
    commitment: float = Field(default=1.0, ge=0)
    decay: float = Field(default=0.99, gt=0, lt=1)
    #: Codes used less than this share of the mean are restarted; 0 never restarts.
    restart_below: float = Field(default=0.05, ge=0, lt=1)
    #: Share of the steps in which a plain autoencoder is trained, before k-means places the codes.
    warmup: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _known(self) -> VQVAESettings:
        if self.loss is not None and not self.loss:
            raise ValueError("loss: name at least one term")
        return self


def _cosine(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(x_BCHW, y_BCHW, dim=1, eps=1e-6)


#: Reconstruction, target (B, C, H, W) -> (B, H, W).
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda x, y: F.mse_loss(x, y, reduction="none").mean(1),
    "l1": lambda x, y: F.l1_loss(x, y, reduction="none").mean(1),
    "smooth_l1": lambda x, y: F.smooth_l1_loss(x, y, reduction="none", beta=0.1).mean(1),
    "cosine": _cosine,
}


class VQVAE(TokenizerNetwork):
    """Encoder, codebook, decoder of one grid modality.

    `forward` takes feature maps (B, C, H, W) float or class maps (B, H, W) int64, of any size that the patch
    divides."""

    training_state = frozenset(f"quantiser.{name}" for name in VectorQuantiser.TRAINING_STATE)

    def __init__(self, spec: ModalitySpec, settings: VQVAESettings) -> None:
        super().__init__()
        assert isinstance(spec.layout, Grid)
        assert isinstance(spec.array, (FeatureMap, ClassMap))
        assert spec.token_space is not None
        grid, patch = (spec.layout.height, spec.layout.width), spec.patch
        self.warmup = settings.warmup
        self.grid, self.patch = grid, patch
        self.cls_emb: nn.Embedding | None = None
        channels_in = channels_out = 0
        if isinstance(spec.array, ClassMap):
            # The last row stands for "no class".
            self.cls_emb = nn.Embedding(spec.array.classes + 1, settings.class_dim)
            channels_in, channels_out = settings.class_dim, spec.array.classes
        else:
            channels_in = channels_out = spec.array.channels
        self.loss_names = tuple(loss_weights(settings, spec))
        self.encoder = ViTEncoder(channels_in, patch, grid, settings.encoder)
        # The published 1x1 convolutions, as products: weights (out, in).
        self.quant_proj = nn.Linear(settings.encoder.width, settings.latent_dim)
        self.quantiser = VectorQuantiser(
            spec.token_space.size,
            settings.latent_dim,
            normalise=settings.normalise_codes,
            decay=settings.decay,
            restart_below=settings.restart_below,
        )
        self.post_quant_proj = nn.Linear(settings.latent_dim, settings.decoder.width)
        self.decoder = ViTDecoder(channels_out, patch, grid, settings.decoder)

    def latents(self, x: Tensor) -> Tensor:
        """Maps -> latents before quantisation (B, N, d)."""
        if self.cls_emb is not None:
            classes = torch.where(x < 0, self.cls_emb.num_embeddings - 1, x)
            x = self.cls_emb(classes).permute(0, 3, 1, 2)
        else:
            x = torch.nan_to_num(x)
        return self.quant_proj(self.encoder(x))

    def reconstruct(self, latents_BNd: Tensor, grid: tuple[int, int]) -> Tensor:
        """Quantised latents of a grid -> feature maps, or logits of the classes (B, classes, H, W)."""
        return self.decoder(self.post_quant_proj(latents_BNd), grid)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        quantised = self.quantiser(self.latents(x))
        output = self.reconstruct(quantised.latents, self._grid_of(x)).float()
        sums = {COMMITMENT: quantised.commitment.sum()}
        if self.cls_emb is not None:
            return sums | {"cross_entropy": F.cross_entropy(output, x, ignore_index=-1, reduction="sum")}
        known = ~x.isnan().any(1)  # (B, H, W)
        target = torch.nan_to_num(x)
        return sums | {name: (LOSSES[name](output, target) * known).sum() for name in self.loss_names}

    def encode(self, x: Tensor) -> Tensor:
        return self.quantiser.nearest(self.latents(x))

    def decode(self, ids_BN: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self._to_array(self.reconstruct(self.quantiser.lookup(ids_BN), grid or self.grid))

    def decode_expected(self, probabilities_BNK: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self._to_array(self.reconstruct(probabilities_BNK @ self.quantiser.codes, grid or self.grid))

    def _grid_of(self, x: Tensor) -> tuple[int, int]:
        return x.shape[-2] // self.patch[0], x.shape[-1] // self.patch[1]

    def _to_array(self, output: Tensor) -> Tensor:
        return output if self.cls_emb is None else output.argmax(1)

    def after_step(self, step: int, steps: int) -> None:
        batch = self.quantiser.update()
        if self.quantiser.started:
            return
        if step + 1 >= self.warmup * steps and self.quantiser.ready:
            self.quantiser.start(batch)
        elif step + 1 == steps:
            raise ValueError(
                f"{steps} steps showed the codebook fewer latents than its {self.quantiser.size} codes; fit for "
                f"more steps, with larger batches or a smaller codebook"
            )

    def progress(self) -> dict[str, Tensor]:
        return self.quantiser.progress()


def loss_weights(settings: VQVAESettings, spec: ModalitySpec) -> dict[str, float]:
    """Terms of the reconstruction loss of a spec's arrays. Raises ValueError for terms that do not fit them."""
    classes = isinstance(spec.array, ClassMap)
    if settings.loss is None:
        return {"cross_entropy": 1.0} if classes else {"mse": 1.0}
    unfit = [name for name in settings.loss if (name == "cross_entropy") != classes]
    if unfit:
        fit = "cross_entropy" if classes else ", ".join(LOSSES)
        raise ValueError(f"{spec.name}: loss {unfit[0]!r} does not fit its {spec.array.kind}; choose from {fit}")
    return {str(name): weight for name, weight in settings.loss.items()}


class VQVAETokenizer(NeuralTokenizer):
    """Kind `vqvae`."""

    kind = "vqvae"
    Settings = VQVAESettings

    def make_network(self) -> VQVAE:
        if not isinstance(self.spec.layout, Grid):
            raise ValueError(f"{self.spec.name}: a vqvae tokenizer needs a grid, not a {self.spec.layout.kind}")
        return VQVAE(self.spec, self.settings)

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        super().adopt(state)
        self.network.get_buffer("quantiser.started").fill_(True)

    def counts(self, arrays: Tensor) -> dict[str, float]:
        """Latents, and pixels of which something is known."""
        known = arrays >= 0 if isinstance(self.spec.array, ClassMap) else ~arrays.isnan().any(1)
        pixels = float(known.sum())
        rows, columns = self.spec.patch
        tokens = float(len(arrays) * (arrays.shape[-2] // rows) * (arrays.shape[-1] // columns))
        return {COMMITMENT: tokens} | dict.fromkeys(loss_weights(self.settings, self.spec), pixels)

    def weights(self) -> dict[str, float]:
        return {COMMITMENT: self.settings.commitment} | loss_weights(self.settings, self.spec)

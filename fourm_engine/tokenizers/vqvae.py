"""VQ-VAE of grids (4M, appendix B): a ViT encoder, a quantiser, a ViT decoder.

In: feature maps (pictures, depth, normals; NaN in gaps, treated as 0 and excluded from the loss) or class maps (-1 for
pixels without a class, excluded from the loss). Out: one id per patch, and maps from ids.
"""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.tokenizers.losses import LOSSES, LossName, loss_weights
from fourm_engine.tokenizers.network import TokenizerNetwork
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.perceptual import PERCEPTUAL, Perceptual, PerceptualSettings
from fourm_engine.tokenizers.quantisers.settings import CodebookSettings, make_quantiser
from fourm_engine.tokenizers.vit import CodecSettings, DecoderSettings, ViTDecoder, ViTEncoder
from fourm_plugins.spec import ClassMap, FeatureMap, Grid, ModalitySpec

#: Up to this many classes are embedded by a product with their one-hot codes.
FEW_CLASSES = 32


class VQVAESettings(CodebookSettings):
    """Sizes, loss and codebook. The number of codes is the token space's."""

    encoder: CodecSettings = CodecSettings(blocks=0)
    decoder: DecoderSettings = DecoderSettings(blocks=2)
    #: Channels of the embedding of class ids, for class maps.
    class_dim: int = Field(default=8, ge=1, le=4096)
    #: Terms of the reconstruction loss and their weights. Default: cross_entropy for class maps, mse for the others.
    #: "cosine" is 1 − cos between the channel vectors of a pixel.
    loss: dict[LossName, float] | None = Field(default=None, min_length=1)
    #: Also compare pictures in the features of a pretrained model; null: not.
    perceptual: PerceptualSettings | None = None


class VQVAE(TokenizerNetwork):
    """Encoder, codebook, decoder of one grid modality.

    `forward` takes feature maps (B, C, H, W) float or class maps (B, H, W) int64, of any size that the patch divides.
    """

    def __init__(self, spec: ModalitySpec, settings: VQVAESettings) -> None:
        super().__init__()
        assert isinstance(spec.layout, Grid)
        assert isinstance(spec.array, (FeatureMap, ClassMap))
        assert spec.token_space is not None
        grid, patch = (spec.layout.height, spec.layout.width), spec.patch
        self.grid, self.patch = grid, patch
        self.gaps = isinstance(spec.array, FeatureMap) and spec.array.gaps
        self.cls_emb: nn.Embedding | None = None
        channels_in = channels_out = 0
        if isinstance(spec.array, ClassMap):
            # The last row stands for "no class".
            table = torch.empty(spec.array.classes + 1, settings.class_dim)
            if not table.is_meta:  # on the meta device this would import torch's compiler, which takes seconds
                nn.init.normal_(table)
            self.cls_emb = nn.Embedding(table.shape[0], table.shape[1], _weight=table)
            channels_in, channels_out = settings.class_dim, spec.array.classes
        else:
            channels_in = channels_out = spec.array.channels
        self.encoder = ViTEncoder(channels_in, patch, grid, settings.encoder)
        self.quantiser = make_quantiser(settings, spec.token_space.size)
        # The published 1x1 convolutions, as products: weights (out, in).
        self.quant_proj = nn.Linear(settings.encoder.width, self.quantiser.dim)
        self.make_decoder(spec, settings, channels_out)

    def make_decoder(self, spec: ModalitySpec, settings: VQVAESettings, channels: int) -> None:
        """The decoder from quantised latents to maps of `channels`; overridden by subclasses."""
        self.loss_names = tuple(loss_weights(settings.loss, spec))
        self.perceptual = Perceptual(settings.perceptual) if settings.perceptual is not None else None
        self.post_quant_proj = nn.Linear(self.quantiser.dim, settings.decoder.width)
        self.decoder = ViTDecoder(channels, spec.patch, self.grid, settings.decoder)

    def latents(self, x: Tensor) -> Tensor:
        if self.cls_emb is not None:
            # Rearrange ids rather than their embeddings, which are many times as large.
            classes = torch.where(x < 0, self.cls_emb.num_embeddings - 1, x)
            (p, q), grid = self.patch, self._grid_of(x)
            patches = self._embedded(rearrange(classes, "b (h p) (w q) -> b (h w) (p q)", p=p, q=q))
            return self.quant_proj(self.encoder.embed(patches.transpose(2, 3).flatten(2), grid))
        return self.quant_proj(self.encoder(torch.nan_to_num(x) if self.gaps else x))

    def _embedded(self, classes: Tensor) -> Tensor:
        """Classes (...) -> their embeddings (..., d). In training, small numbers of classes use a product, which gives
        the same result, and whose gradient takes a quarter of the time on a CPU."""
        assert self.cls_emb is not None
        number, table = self.cls_emb.weight.shape[0], self.cls_emb.weight
        if number > FEW_CLASSES or not self.training:
            return self.cls_emb(classes)
        return F.embedding(classes, torch.eye(number, dtype=table.dtype, device=table.device)) @ table

    def reconstruct(self, latents_BNd: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Quantised latents of a grid -> feature maps, or logits of the classes (B, classes, H, W)."""
        return self.decoder(self.post_quant_proj(latents_BNd), grid)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        quantised = self.quantiser(self.latents(x))
        output = self.reconstruct(quantised.latents, self._grid_of(x)).float()
        sums = {name: values.sum() for name, values in quantised.losses.items()}
        if self.cls_emb is not None:
            return sums | {"cross_entropy": F.cross_entropy(output, x, ignore_index=-1, reduction="sum")}
        known = ~x.isnan().any(1)  # (B, H, W)
        target = torch.nan_to_num(x)
        sums |= {name: (LOSSES[name](output, target) * known).sum() for name in self.loss_names}
        if self.perceptual is not None:
            sums[PERCEPTUAL] = self.perceptual(output, target).sum()
        return sums

    def to_arrays(self, outputs: Tensor) -> Tensor:
        return outputs if self.cls_emb is None else outputs.argmax(1)

    def _grid_of(self, x: Tensor) -> tuple[int, int]:
        return x.shape[-2] // self.patch[0], x.shape[-1] // self.patch[1]

    def blocks(self) -> list[nn.Module]:
        return [*self.encoder.blocks, *self.decoder.blocks]


class VQVAETokenizer(NeuralTokenizer):
    """Kind `vqvae`."""

    kind = "vqvae"
    Settings = VQVAESettings

    def make_network(self) -> VQVAE:
        if not isinstance(self.spec.layout, Grid):
            raise ValueError(f"{self.spec.name}: a vqvae tokenizer needs a grid, not a {self.spec.layout.kind}")
        array = self.spec.array
        pictures = isinstance(array, FeatureMap) and array.channels == 3 and not array.gaps
        if self.settings.perceptual is not None and not pictures:
            raise ValueError(f"{self.spec.name}: perceptual compares pictures of three channels without gaps")
        return VQVAE(self.spec, self.settings)

    def tokens(self, arrays: Tensor) -> int:
        """Number of ids, or latents, in a batch of arrays of any size."""
        rows, columns = self.spec.patch
        return len(arrays) * (arrays.shape[-2] // rows) * (arrays.shape[-1] // columns)

    def counts(self, arrays: Tensor) -> dict[str, float]:
        """Latents, known pixels, and pictures."""
        known = arrays >= 0 if isinstance(self.spec.array, ClassMap) else ~arrays.isnan().any(1)
        pixels = float(known.sum())
        counts = dict.fromkeys(self.network.quantiser.loss_names, float(self.tokens(arrays)))
        counts |= dict.fromkeys(loss_weights(self.settings.loss, self.spec), pixels)
        return counts if self.settings.perceptual is None else counts | {PERCEPTUAL: float(len(arrays))}

    def weights(self) -> dict[str, float]:
        weights = self.settings.quantiser_weights(self.network.quantiser)
        weights |= loss_weights(self.settings.loss, self.spec)
        extra = self.settings.perceptual
        return weights if extra is None else weights | {PERCEPTUAL: extra.weight}

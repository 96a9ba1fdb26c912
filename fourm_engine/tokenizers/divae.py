"""DiVAE: the VQ-VAE's encoder and codebook with a diffusion decoder (Shi et al. 2022; 4M, appendix B). Kind `divae`.

In: feature maps (pictures, depth, normals; NaN in gaps, treated as 0 and excluded from the loss). Out: one id per
patch, and maps from ids. Decoding samples from fixed noise, so that equal ids give equal maps, independently of the
batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.tokenizers.diffusion import Diffusion, DiffusionSettings
from fourm_engine.tokenizers.network import chunk, filled
from fourm_engine.tokenizers.neural import WEIGHTS
from fourm_engine.tokenizers.quantisers.settings import CodebookSettings
from fourm_engine.tokenizers.store import read_document
from fourm_engine.tokenizers.unet import PatchedUNet, UNetSettings
from fourm_engine.tokenizers.vit import CodecSettings
from fourm_engine.tokenizers.vqvae import VQVAE, VQVAETokenizer
from fourm_engine.weights import opened
from fourm_plugins.spec import FeatureMap, Grid, ModalitySpec

LOSS = "diffusion"
#: Parts of the network that are taken from a frozen tokenizer.
_ENCODER = ("encoder.", "quant_proj.", "quantiser.")
#: Settings of these parts, which must equal those of the tokenizer that they are taken from.
_SHARED = ("encoder", "quantiser", "latent_dim", "heads", "normalise_codes", "levels")


class DiVAESettings(CodebookSettings):
    """Encoder and codebook are the VQ-VAE's. The loss is the squared error of the diffusion's prediction."""

    encoder: CodecSettings = CodecSettings(blocks=0)
    decoder: UNetSettings = UNetSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    #: Share of the training maps that are decoded without condition, so that decoding can be guided.
    condition_dropout: float = Field(default=0.0, ge=0, lt=1)
    #: Share of a map's tokens hidden in training, drawn uniformly between the two, so that few tokens suffice.
    condition_mask: tuple[float, float] = (0.0, 0.0)
    #: Guidance weight w of decoding, u + w (c − u) (Ho & Salimans 2022); 1 saves the second call.
    guidance: float = Field(default=1.0, ge=0, le=100)
    #: Folder of a fitted tokenizer, of kind `vqvae` or `divae`, whose encoder and codebook are taken over and frozen,
    #: so that its ids stay the same. Only fitting reads it.
    encoder_from: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> DiVAESettings:
        low, high = self.condition_mask
        if not 0 <= low <= high <= 1:
            raise ValueError(f"condition_mask {list(self.condition_mask)}: give shares with 0 <= low <= high <= 1")
        if self.guidance != 1 and not (self.condition_dropout or high == 1):
            raise ValueError(f"guidance {self.guidance} needs a decoder without condition; raise condition_dropout")
        return self


class DiVAE(VQVAE):
    """Encoder, codebook and UNet of one grid. `forward` takes (B, C, H, W) of any size that both patches divide."""

    decoder: PatchedUNet  # type: ignore[assignment]
    channels: int
    frozen: bool
    condition_dropout: float
    condition_mask: tuple[float, float]
    guidance: float
    diffusion: Diffusion

    def make_decoder(self, spec: ModalitySpec, settings: CodebookSettings, channels: int) -> None:
        assert isinstance(settings, DiVAESettings)
        assert isinstance(spec.array, FeatureMap)
        self.loss_names = (LOSS,)
        self.channels = channels
        self.frozen = settings.encoder_from is not None
        self.condition_dropout, self.condition_mask = settings.condition_dropout, settings.condition_mask
        self.guidance = settings.guidance
        self.diffusion = Diffusion(settings.diffusion)
        self.decoder = PatchedUNet(channels, settings.latent_dim, settings.decoder)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.frozen:
            latents, sums = self.quantiser.lookup(self._fixed_ids(x)), {}
        else:
            quantised = self.quantiser(self.latents(x))
            latents, sums = quantised.latents, {name: values.sum() for name, values in quantised.losses.items()}
        known = ~x.isnan().any(1, keepdim=True)
        clean = torch.nan_to_num(x)
        # Stratified over the batch, for less variance than independent draws.
        share = (torch.rand((), device=x.device) + torch.arange(len(x), device=x.device) / len(x)) % 1
        t = (share * self.diffusion.settings.timesteps).long()
        noise = torch.randn_like(clean)
        condition = self._hide(latents) if self.training else latents
        predicted = self.denoise(self.diffusion.noisy(clean, noise, t), t, condition).float()
        error = F.mse_loss(predicted, self.diffusion.target(clean, noise, t), reduction="none") * known
        return sums | {LOSS: error.sum() / self.channels}

    @torch.no_grad()
    def _fixed_ids(self, x: Tensor) -> Tensor:
        """Ids of a frozen encoder in full chunks, as in `NeuralTokenizer.encode`: exactly the ids that decoding will
        get."""
        size = chunk(x.device)
        return torch.cat([self.encode(part) for part in filled(x, size).split(size)])[: len(x)]

    def _hide(self, latents_BNd: Tensor) -> Tensor:
        """Replace the latents that are hidden from the decoder with zeros."""
        size, tokens, _ = latents_BNd.shape
        low, high = self.condition_mask
        if high > 0:
            share = low + (high - low) * torch.rand(size, 1, device=latents_BNd.device)
            rank = torch.rand(size, tokens, device=latents_BNd.device).argsort(1).argsort(1)
            latents_BNd = latents_BNd * (rank >= share * tokens)[..., None]
        if self.condition_dropout > 0:
            latents_BNd = latents_BNd * (torch.rand(size, 1, 1, device=latents_BNd.device) >= self.condition_dropout)
        return latents_BNd

    def denoise(self, x_BCHW: Tensor, t_B: Tensor, latents_BNd: Tensor) -> Tensor:
        """One call of the decoder: its prediction for noisy maps at timesteps t."""
        condition = rearrange(latents_BNd, "b (h w) d -> b d h w", h=self._grid_of(x_BCHW)[0])
        return self.decoder(x_BCHW, t_B, condition)

    def reconstruct(
        self,
        latents_BNd: Tensor,
        grid: tuple[int, int] | None = None,
        *,
        noise: Tensor | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Maps from quantised latents of a grid, by default of the network's own size. `noise` (B, C, H, W) defaults to
        that of the settings, the same for all maps of a size. Maps are decoded one by one on a CPU, in full chunks on a
        GPU, so that they do not depend on each other."""
        if noise is None:
            grid = grid or self.grid
            shape = (self.channels, grid[0] * self.patch[0], grid[1] * self.patch[1])
            noise = self.diffusion.noise(shape).to(latents_BNd.device).expand(len(latents_BNd), -1, -1, -1)
        size, maps = 1 if latents_BNd.device.type == "cpu" else chunk(latents_BNd.device), []
        for latents, start in zip(latents_BNd.split(size), noise.split(size)):
            predict = self._predict(filled(latents, size))
            maps.append(self.diffusion.sample(predict, filled(start, size), steps=steps)[: len(latents)])
        return torch.cat(maps)

    def _predict(self, latents_BNd: Tensor) -> Any:
        if self.guidance == 1:
            return lambda x, t: self.denoise(x, t, latents_BNd)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            both = torch.cat([torch.zeros_like(latents_BNd), latents_BNd])
            without, given = self.denoise(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            return without + self.guidance * (given - without)

        return guided

    def blocks(self) -> list[nn.Module]:
        unet = self.decoder
        return [*self.encoder.blocks, *unet.input_blocks, unet.middle_block, *unet.output_blocks]

    def after_step(self, step: int, steps: int) -> None:
        if not self.frozen:
            super().after_step(step, steps)

    def after_average(self, averages: Mapping[str, Tensor]) -> None:
        if not self.frozen:
            super().after_average(averages)

    def progress(self) -> dict[str, Tensor]:
        return {} if self.frozen else super().progress()


class DiVAETokenizer(VQVAETokenizer):
    """Kind `divae`."""

    kind = "divae"
    Settings = DiVAESettings  # type: ignore[assignment]
    path_settings = frozenset({"encoder_from"})

    def make_network(self) -> DiVAE:
        self._check_decodes(self.spec)
        return DiVAE(self.spec, self.settings)

    def _check_alike(self, spec: ModalitySpec) -> None:
        super()._check_alike(spec)
        self._check_decodes(spec)

    def _check_decodes(self, spec: ModalitySpec) -> None:
        """Raise ValueError for arrays that the UNet cannot decode."""
        decoder = self.settings.decoder
        if not (isinstance(spec.layout, Grid) and isinstance(spec.array, FeatureMap)):
            raise ValueError(f"{spec.name}: divae decodes feature maps on a grid, not a {spec.array.kind}; vqvae does")
        if spec.array.height % decoder.downsampling or spec.array.width % decoder.downsampling:
            raise ValueError(
                f"{spec.name}: {spec.array.height}x{spec.array.width} does not divide by {decoder.downsampling}, the "
                f"patch of the decoder times its downsampling; choose another patch or fewer multipliers"
            )

    def starting_network(self) -> DiVAE:
        network = self.make_network()
        if self.settings.encoder_from is not None:
            network.load_state_dict(self._borrowed(self.settings.encoder_from), strict=False)
            network.quantiser.mark_fitted()
            for module in (network.encoder, network.quant_proj):
                module.requires_grad_(False)
        return network

    @property
    def starting_point(self) -> str:
        folder = self.settings.encoder_from
        return "" if folder is None else _document(folder)["fingerprint"]

    def _borrowed(self, folder: Path) -> dict[str, Tensor]:
        """Encoder and codebook of a fitted tokenizer. Raises ValueError if they do not fit."""
        document = _document(folder)
        kind = DiVAETokenizer if document["kind"] == DiVAETokenizer.kind else VQVAETokenizer
        settings = kind.Settings.model_validate(document["settings"])
        for key in _SHARED:
            value, wanted = getattr(settings, key), getattr(self.settings, key)
            if value != wanted:
                raise ValueError(f"{folder}: {key} is {value!r}, but {self.spec.name} has {wanted!r}; set it alike")
        arrays = [ModalitySpec.model_validate(raw).array for raw in document["specs"]]
        if self.spec.array not in arrays:
            raise ValueError(f"{folder}: fitted for {arrays[0]!r}, but {self.spec.name} is {self.spec.array!r}")
        shapes = {k: tuple(v.shape) for k, v in self.state(copy=False).items() if k.startswith(_ENCODER)}
        fits: Any = {"to": "the tokenizer's settings", "only": _ENCODER, "remedy": "fit it again"}
        with opened(folder / WEIGHTS, shapes, **fits) as file:
            return {name: file.get_tensor(name) for name in shapes}

    def counts(self, arrays: Tensor) -> dict[str, float]:
        """Latents (unless the encoder is frozen) and known pixels."""
        return dict.fromkeys(self.weights(), float(self.tokens(arrays))) | {LOSS: float((~arrays.isnan().any(1)).sum())}

    def weights(self) -> dict[str, float]:
        learned = {} if self.settings.encoder_from else self.settings.quantiser_weights(self.network.quantiser)
        return learned | {LOSS: 1.0}


def _document(folder: Path) -> dict[str, Any]:
    document = read_document(folder)
    if document is None:
        raise ValueError(f"{folder}: no fitted tokenizer; fit one, or name its folder in encoder_from")
    if document["kind"] not in (VQVAETokenizer.kind, DiVAETokenizer.kind):
        raise ValueError(f"{folder}: a tokenizer of kind {document['kind']!r}; encoder_from takes vqvae and divae")
    return document

"""Embeddings: a token's content plus the embedding of its position and modality.

In: `ids`, `pos`, `mod` of packed tokens, (B, N) int64 each, and the patches of continuous inputs, as in
`fourm_engine.batch`. Out: content (B, N, D) and position embedding (B, N, D) = position + modality vector; separate,
because the decoder's context needs the latter again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.nn.init import Initial
from fourm_engine.nn.stem import ConvStem, stem_entries

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from fourm_engine.batch import Patches
    from fourm_engine.vocabulary import Vocabulary

# The sines and cosines of the positions have an RMS of 0.71, and content must be of that size from the start. Measured
# on a toy task (a grid's ids from another grid's: a permutation of ids, shifted with the position; width 96, 2 + 2
# blocks, 900 steps of AdamW at 1e-3): mean loss in nats over the second and the last sixth of the steps, ln V = 3.47.
#   std 0.02: 3.47, 3.46 · 0.2: 3.46, 1.48 · 0.5: 2.25, 0.08 · 1.0: 2.08, 0.04
CONTENT_STD = 1.0
# With two target grids (1200 steps, last sixth): std 0.02: 0.10 · 0.2: 0.07 · 0.5: 0.12 · 1.0: 0.29. The mask token is
# the same everywhere; at 0.5 it slows learning down.
MODALITY_STD = 0.2
MASK_TOKEN_STD = 0.02


def sine_cosine_1d(length: int, width: int, *, over: int | None = None) -> Float[Tensor, "length width"]:
    """float32: width/2 frequencies 10000^(-i/(width/2)), all sines, then all cosines, amplitude 1. `over`: number of
    positions over which to spread `length`, by the centres of cells, as when resizing a picture; by default positions
    are 0, 1, …."""
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device="cpu") / half)
    position = torch.arange(length, dtype=torch.float64, device="cpu")
    if over is not None:
        position = (position + 0.5) * (over / length) - 0.5
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def sine_cosine_2d(
    height: int, width_tokens: int, width: int, *, over: tuple[int, int] | None = None
) -> Float[Tensor, "height*width_tokens width"]:
    """float32: sin(a), cos(a), sin(b), cos(b) of token a · width_tokens + b. `over`: rows and columns of the grid over
    whose positions to spread them."""
    n, (rows, columns) = torch.arange(height * width_tokens, device="cpu"), over or (None, None)
    row = sine_cosine_1d(height, width // 2, over=rows)[n // width_tokens]
    column = sine_cosine_1d(width_tokens, width // 2, over=columns)[n % width_tokens]
    return torch.cat([row, column], dim=1)


class Embedding(nn.Module):
    """Token tables of encoder and decoder, modality vectors (shared by both), positions, mask token, projections.

    One table per side holds the rows of all modalities, so that a single gather embeds a mixed batch; likewise one
    table of positions, at `offset[mod] + pos`. A sequence has up to twice `max_tokens` positions, since its targets
    also contain sentinels. The caller guarantees that `pos` is within a modality's positions; it is not checked on the
    device. Learned positions (Vector layouts) are separate tables on either side, as in 4M-21."""

    offset: Tensor
    fixed_positions: Tensor

    def __init__(self, width: int, vocabulary: Vocabulary, *, stem: Literal["linear", "conv"] = "linear") -> None:
        super().__init__()
        self.width = width
        entries = list(vocabulary.entries)
        self.encoder_table = nn.Parameter(torch.empty(vocabulary.size, width))
        self.decoder_table = nn.Parameter(torch.empty(vocabulary.size, width))
        self.modality = nn.Parameter(torch.empty(len(entries), width))
        self.mask_token = nn.Parameter(torch.empty(width))
        continuous = [entry for entry in entries if entry.patch_dim]
        # Projections of patches have no bias, those of embeddings in a sequence have one (4M-21).
        self.projections = nn.ModuleDict(
            {e.name: nn.Linear(e.patch_dim, width, bias=e.layout.kind == "sequence") for e in continuous}
        )
        self.stems = nn.ModuleDict({e.name: ConvStem(e, width) for e in stem_entries(stem, entries)})
        # Learned positions follow the fixed ones in the table.
        lengths = {e.name: e.layout.num_tokens for e in entries if e.layout.kind == "vector"}
        self.encoder_positions, self.decoder_positions = (
            nn.ParameterDict({name: nn.Parameter(torch.empty(n, width)) for name, n in lengths.items()})
            for _ in ("encoder", "decoder")
        )
        self._layouts = [(e.name, e.layout, e.position_grid) for e in entries]
        self.register_buffer("offset", torch.empty(len(entries), dtype=torch.int64), persistent=False)
        self.register_buffer("fixed_positions", torch.empty(self._tables()[1].shape), persistent=False)

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Offsets (n_mod,) int64 and the fixed positions (rows, D), on the CPU."""
        offsets, tables, rows = [], [torch.empty(0, self.width, device="cpu")], 0
        fixed = [layout for _, layout, _ in self._layouts if layout.kind != "vector"]
        learned_rows = sum(2 * f.max_tokens if f.kind == "sequence" else f.num_tokens for f in fixed)
        for _, layout, over in self._layouts:
            if layout.kind == "vector":
                offsets.append(learned_rows)
                learned_rows += layout.num_tokens
                continue
            if layout.kind == "grid":
                table = sine_cosine_2d(layout.height, layout.width, self.width, over=over)
            else:
                table = sine_cosine_1d(2 * layout.max_tokens, self.width)
            offsets.append(rows)
            tables.append(table)
            rows += len(table)
        return torch.tensor(offsets, dtype=torch.int64, device="cpu"), torch.cat(tables)

    def initial(self) -> dict[str, Initial]:
        """Parameter -> its initial values."""
        initial = dict.fromkeys(("encoder_table", "decoder_table"), Initial("gaussian", CONTENT_STD))
        initial |= {"modality": Initial("gaussian", MODALITY_STD), "mask_token": Initial("gaussian", MASK_TOKEN_STD)}
        for name, projection in self.projections.items():
            assert isinstance(projection, nn.Linear)
            # Inputs of unit variance (normalised pixels) are mapped to unit variance.
            initial[f"projections.{name}.weight"] = Initial("gaussian", CONTENT_STD * projection.in_features**-0.5)
        for name, stem in self.stems.items():
            assert isinstance(stem, ConvStem)
            initial |= {f"stems.{name}.{part}": values for part, values in stem.initial().items()}
        for name in self.encoder_positions:
            for side in ("encoder", "decoder"):
                initial[f"{side}_positions.{name}"] = Initial("gaussian", 0.5**0.5)  # the RMS of a sine
        return initial

    @torch.no_grad()
    def init_buffers(self) -> None:
        """Fill the tables of positions."""
        offset, fixed = self._tables()
        self.offset.copy_(offset)
        self.fixed_positions.copy_(fixed)

    def position_embedding(self, pos_BN: Tensor, mod_BN: Tensor, positions: nn.ParameterDict) -> Float[Tensor, "B N D"]:
        """Position, with the learned `positions` of either side, + modality vector. Padding (mod -1) gets a finite
        value that must not be used."""
        table = self.fixed_positions
        if positions:
            # In the vocabulary's order, which `offset` follows; a ParameterDict sorts by name.
            learned = [positions[name] for name, layout, _ in self._layouts if layout.kind == "vector"]
            table = torch.cat([table.to(self.modality.dtype), *learned])
        valid, mod = mod_BN >= 0, mod_BN.clamp(min=0)
        index = torch.where(valid, self.offset[mod] + pos_BN, 0)
        return F.embedding(index, table) + F.embedding(mod, self.modality)

    def encoder(
        self, ids: Int[Tensor, "B N"], pos: Int[Tensor, "B N"], mod: Int[Tensor, "B N"], continuous: dict[str, Patches]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]]:
        """Content and position embedding of the encoder's tokens: id -1 for a continuous input or padding;
        `continuous`: modality -> its patches, the only shape that depends on the mix of modalities. Raises ValueError
        for a modality that the vocabulary lacks."""
        if len(self.encoder_table):
            content = torch.where((ids >= 0)[..., None], F.embedding(ids.clamp(min=0), self.encoder_table), 0.0)
        else:  # an encoder with continuous inputs only
            content = self.encoder_table.new_zeros(*ids.shape, self.width)
        unknown = sorted(continuous.keys() - self.projections.keys())
        if unknown:
            raise ValueError(
                f"continuous input for {', '.join(unknown)}, but this model takes continuous inputs only for "
                f"{', '.join(self.projections) or 'no modality'}; pass token ids or build the model with it"
            )
        for name, projection in self.projections.items():
            assert isinstance(projection, nn.Linear)
            if name in continuous:
                patches = continuous[name]
                values = patches.values.to(projection.weight.dtype)
                at = patches.row * ids.shape[1] + patches.slot  # no slot is filled twice
                projected = projection(values).to(content.dtype)  # (K, D)
                if name in self.stems:
                    convolved = self._convolve(name, values, patches.row, pos.flatten()[at], len(ids))
                    projected = projected + convolved.to(content.dtype)
                content = content.flatten(0, 1).index_copy(0, at, projected).view_as(content)
            elif self.training:
                # Sharded reduction needs a gradient for every parameter on every rank, whatever its batch contains.
                unused = [projection, self.stems[name]] if name in self.stems else [projection]
                content = content + 0.0 * sum(p.sum() for module in unused for p in module.parameters())
        return content, self.position_embedding(pos, mod, self.encoder_positions)

    def _convolve(self, name: str, values: Tensor, row: Tensor, pos: Tensor, B: int) -> Float[Tensor, "K D"]:
        """The stem's embeddings of K patches, at the positions `pos` of the grids of B samples."""
        stem = self.stems[name]
        assert isinstance(stem, ConvStem)
        if row.device.type == "cpu":  # elsewhere, the host would wait for their number
            rows, row = row.unique(return_inverse=True)
            B = len(rows)  # only samples that show some
        cells = row * stem.cells + pos
        patches = values.new_zeros(B * stem.cells, values.shape[1]).index_copy(0, cells, values)
        shown = torch.zeros(B * stem.cells, dtype=torch.bool, device=values.device).index_fill(0, cells, True)
        grid = (B, stem.cells)  # B may be 0: a process whose share of a batch has no patches
        return stem(patches.unflatten(0, grid), shown.unflatten(0, grid)).flatten(0, 1)[cells]

    def decoder(
        self, ids: Int[Tensor, "B M"], pos: Int[Tensor, "B M"], mod: Int[Tensor, "B M"]
    ) -> Float[Tensor, "B M D"]:
        """Content + position embedding of the decoder's tokens; id -1 is the mask token."""
        token = F.embedding(ids.clamp(min=0), self.decoder_table)
        content = torch.where((ids >= 0)[..., None], token, self.mask_token)
        return content + self.position_embedding(pos, mod, self.decoder_positions)

"""The 4M encoder-decoder (arXiv 2312.06647, section 2.2): packed tokens in, a loss per modality (or logits) out.

In: `Tokens(ids, pos, mod, order)` of (B, N) for the encoder and (B, M) for the decoder, patches of continuous inputs;
see `fourm_engine.batch`. A batch may mix any modalities in any slots; only kept tokens are embedded.

`Transformer.forward` computes the loss, so that FSDP can shard the blocks and the root module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fourm_engine.device import on_host
from fourm_engine.nn.attention import Contexts, additive, causal_step_mask, guard_mask, stacked
from fourm_engine.nn.blocks import BlockCache, DecoderBlock, EncoderBlock, layer_norm
from fourm_engine.nn.config import SIZES, ModelConfig
from fourm_engine.nn.embeddings import Embedding
from fourm_engine.nn.heads import Heads, SoftTarget
from fourm_engine.nn.init import Initial
from fourm_engine.nn.wrappers import compile_blocks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from fourm_engine.batch import Batch, Patches, Tokens
    from fourm_engine.vocabulary import Vocabulary

REGISTER_STD = 0.02

__all__ = ["SIZES", "DecoderCache", "ModelConfig", "Transformer"]


@dataclass
class DecoderCache:
    """State of cached decoding: filled by `Transformer.start_cache`, advanced in place by `decode_step`."""

    blocks: list[BlockCache]
    contexts: list[Contexts]
    max_len: int
    length: int = 0  # tokens decoded so far


class Transformer(nn.Module):
    """Encoder-decoder over the modalities of a vocabulary.

    Args:
        config: the model's shape.
        vocabulary: the id space; `size` rows and `entries` (name, start, stop, layout, patch_dim) in `mod` order."""

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = Embedding(width, vocabulary, stem=config.stem)
        # They precede the encoder's tokens, without position or modality (4M-21; Darcet et al., arXiv 2309.16588).
        self.registers = nn.Parameter(torch.empty(config.registers, width)) if config.registers else None
        self.encoder = nn.ModuleList(_block(EncoderBlock, config) for _ in range(config.encoder_blocks))
        self.encoder_norm = layer_norm(width, bias=config.bias)
        self.context_proj = nn.Linear(width, width)  # has a bias in every variant
        self.decoder = nn.ModuleList(_block(DecoderBlock, config) for _ in range(config.decoder_blocks))
        self.decoder_norm = layer_norm(width, bias=config.bias)
        self.heads = Heads(width, vocabulary)
        if not self.heads.weight.is_meta:
            self.initialise()

    def initialise(self, seed: int | None = None) -> None:
        """Draw every parameter, with `seed` or a seed from torch's generator, and fill the tables of positions."""
        seed = int(torch.randint(2**62, (), device="cpu")) if seed is None else seed
        initial = self.initial()
        for name, parameter in self.named_parameters():
            initial[name].fill(parameter.detach(), name, seed=seed)
        self.init_buffers()

    def initial(self) -> dict[str, Initial]:
        """Parameter -> its initial values."""
        initial = {}
        for path, module in self.named_modules():
            if isinstance(module, nn.LayerNorm):
                initial[f"{path}.weight"] = Initial("constant", 1.0)
            elif isinstance(module, nn.Linear):
                # Glorot-uniform, separately for each of the matrices stacked in qkv and kv.
                bound = (6 / (module.in_features + module.out_features / stacked(path))) ** 0.5
                initial[f"{path}.weight"] = Initial("uniform", bound)
            initial[f"{path}.bias"] = Initial("constant", 0.0)
        initial |= {f"embedding.{name}": values for name, values in self.embedding.initial().items()}
        return initial | {"heads.weight": self.heads.initial(), "registers": Initial("gaussian", REGISTER_STD)}

    def init_buffers(self) -> None:
        """Fill the tables of positions, which are not stored in files: call it after `to_empty` on a meta-device
        model."""
        self.embedding.init_buffers()

    def encode_features(
        self, tokens: Tokens, continuous: dict[str, Patches]
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """The encoder's output after its final norm, without registers, and which slots hold a token."""
        (x_BND,), valid_BN = self.encode_depths(tokens, continuous, [len(self.encoder)])
        return x_BND, valid_BN

    def encode_depths(
        self, tokens: Tokens, continuous: dict[str, Patches], depths: Sequence[int]
    ) -> tuple[list[Float[Tensor, "B N D"]], Bool[Tensor, "B N"]]:
        """`encode_features` after each of these numbers of blocks, with the final norm."""
        content_BND, pos_embed_BND = self.embedding.encoder(tokens.ids, tokens.pos, tokens.mod, continuous)
        states, _, valid_BN = self.encode_embedded(content_BND, pos_embed_BND, tokens.mod >= 0, depths)
        return [x_BND[:, self.config.registers :] for x_BND in states], valid_BN[:, self.config.registers :]

    def encode(
        self, tokens: Tokens, continuous: dict[str, Patches]
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """The decoder's context, Linear(encoder output) + position + modality, and which slots are valid.

        Registers come first: N is `config.registers` more than that of `tokens`. `order` of the tokens is ignored;
        `continuous` may be empty. A row may have no valid token: cross-attention then returns the bias of its output
        projection."""
        content_BND, pos_embed_BND = self.embedding.encoder(tokens.ids, tokens.pos, tokens.mod, continuous)
        return self.context(content_BND, pos_embed_BND, tokens.mod >= 0)

    def context(
        self, content_BND: Tensor, pos_embed_BND: Tensor, valid_BN: Tensor
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """`encode`, starting from content and position embedding."""
        (x_BND,), pos_embed_BND, valid_BN = self.encode_embedded(content_BND, pos_embed_BND, valid_BN)
        return self.context_proj(x_BND) + pos_embed_BND, valid_BN

    def encode_embedded(
        self, content_BND: Tensor, pos_embed_BND: Tensor, valid_BN: Tensor, depths: Sequence[int] | None = None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The encoder, starting from content and position embedding, with registers: its final norm after each of these
        numbers of blocks (None: all), the position embedding, and which slots are valid."""
        if self.registers is not None:
            registers_BRD = self.registers.to(content_BND.dtype).expand(len(content_BND), -1, -1)
            content_BND = torch.cat([registers_BRD, content_BND], dim=1)
            pos_embed_BND = torch.cat([torch.zeros_like(registers_BRD), pos_embed_BND], dim=1)
            valid_BN = torch.cat([valid_BN.new_ones(registers_BRD.shape[:2]), valid_BN], dim=1)
        mask_B11N, seen_B111 = guard_mask(valid_BN[:, None, None, :])
        depths = [len(self.encoder)] if depths is None else depths
        x_BND = content_BND + pos_embed_BND
        states = {0: x_BND} if 0 in depths else {}
        for depth, block in enumerate(self.encoder, start=1):
            x_BND = block(x_BND, mask_B11N, seen_B111)
            if depth in depths:
                states[depth] = x_BND
        return [self.encoder_norm(states[depth]) for depth in depths], pos_embed_BND, valid_BN

    def decode(self, tokens: Tokens, context_BND: Tensor, valid_BN: Tensor) -> Float[Tensor, "B M D"]:
        """The decoder's output after its final norm, for `logits`. A token sees the tokens of its modality whose
        `order` is at most its own, and every valid context token."""
        # With causal grids the order is the position, which for sequences is their rank and thus already the order.
        order_BM = tokens.pos if self.config.decoder_causal else tokens.order
        same = tokens.mod[:, :, None] == tokens.mod[:, None, :]  # (B, M, M), [query, key]
        mask_BMM = same & (order_BM[:, None, :] <= order_BM[:, :, None])
        mask_B1MM = additive(mask_BMM[:, None])
        cross_B11N, seen_B111 = guard_mask(valid_BN[:, None, None, :])
        y_BMD = self.embedding.decoder(tokens.ids, tokens.pos, tokens.mod)
        for block in self.decoder:
            y_BMD = block(y_BMD, context_BND, mask_B1MM, cross_B11N, seen_B111)
        return self.decoder_norm(y_BMD)

    def logits(self, y: Float[Tensor, "... D"], name: str) -> Float[Tensor, "... V_m"]:
        """Logits of `decode`'s output over the modality's ids. Raises ValueError for a modality without output rows."""
        return self.heads.logits(y, name)

    def forward(
        self, batch: Batch, *, by_token: bool = False, soft: Mapping[str, SoftTarget] | None = None
    ) -> dict[str, tuple[Tensor, int]]:
        """The loss: modality -> (sum of the cross-entropies in nats, float32 scalar; number of predicted tokens). With
        `by_token` the cross-entropies (T_m,) themselves, in the order of the batch's targets. `soft`: see `Heads`."""
        context_BND, valid_BN = self.encode(batch.encoder, batch.continuous)
        y_BMD = self.decode(batch.decoder, context_BND, valid_BN)
        targets = batch.target_index, batch.target_ids, batch.target_counts
        return self.heads(y_BMD, *targets, by_token=by_token, soft=soft)

    def start_cache(self, contexts: Sequence[tuple[Tensor, Tensor, int]], max_len: int) -> DecoderCache:
        """Start decoding R sequences of at most `max_len` tokens.

        `contexts`: (context (U, N, D), valid (U, N), rows) from `encode`; each of the U contexts serves `rows`
        consecutive rows of the R. Rows of one context share its keys and values."""
        groups, first = list[Contexts](), 0
        for context_UND, valid_UN, rows in contexts:
            mask, seen = (None, None) if bool(valid_UN.all()) else guard_mask(valid_UN[:, None, None, :])
            groups.append(Contexts(first, len(context_UND), rows, mask, seen))
            first += len(context_UND) * rows
        parts = [context for context, _, _ in contexts]
        # GPU kernels need masks of a multiple of 16 numbers, and copy others in every layer.
        room = max_len if on_host(parts[0]) else max_len + -max_len % 16
        blocks = [block.start_cache(parts, first, room) for block in self._decoder_blocks()]
        return DecoderCache(blocks, groups, max_len)

    def decode_step(
        self,
        ids_R: Int[Tensor, " R"],
        pos_R: Int[Tensor, " R"],
        mod_R: Int[Tensor, " R"],
        cache: DecoderCache,
        index_1: Int[Tensor, " 1"] | None = None,
    ) -> Float[Tensor, "R D"]:
        """Append a token to each row's sequence and return the decoder's output for it.

        `index_1`: number of preceding tokens, on the device; `cache.length` is then unused, and every step does the
        same work, so that one CUDA graph serves all. Without it, raises ValueError if the cache is full."""
        index: int | Tensor = cache.length
        if index_1 is not None:
            index, mask = index_1, causal_step_mask(index_1, cache.blocks[0].self_k_RHLd)
        elif cache.length < cache.max_len:
            cache.length, mask = cache.length + 1, None
        else:
            raise ValueError(f"the cache is full at max_len={cache.max_len} tokens; start it with a larger max_len")
        y_R1D = self.embedding.decoder(ids_R[:, None], pos_R[:, None], mod_R[:, None])
        for block, state in zip(self._decoder_blocks(), cache.blocks, strict=True):
            y_R1D = block.step(y_R1D, state, index, cache.contexts, mask)
        return self.decoder_norm(y_R1D)[:, 0]

    def parameter_counts(self) -> dict[str, int]:
        """{"backbone": …, "embeddings": …}: the latter are the token tables, modality vectors, projections, learned
        positions and output rows; the mask token counts as backbone, as in the paper's sizes."""
        total = sum(p.numel() for p in self.parameters())
        inside = sum(p.numel() for part in (self.embedding, self.heads) for p in part.parameters())
        embeddings = inside - self.embedding.mask_token.numel()
        return {"backbone": total - embeddings, "embeddings": embeddings}

    def compile_blocks(self) -> None:
        """Compile each block in place. Batches of fixed (B, N, M) then need one encoder and one decoder graph, whatever
        their mix of modalities; parameter names are unchanged."""
        compile_blocks((*self.encoder, *self.decoder))

    @property
    def compiled(self) -> bool:
        return hasattr(self.decoder[0], "is_compiled")

    def _decoder_blocks(self) -> Iterator[DecoderBlock]:
        for block in self.decoder:
            assert isinstance(block, DecoderBlock)
            yield block


def _block(kind: type[EncoderBlock] | type[DecoderBlock], config: ModelConfig) -> nn.Module:
    return kind(
        config.width, config.heads, mlp=config.mlp, mlp_ratio=config.mlp_ratio, bias=config.bias, qk_norm=config.qk_norm
    )

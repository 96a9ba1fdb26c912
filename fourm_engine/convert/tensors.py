"""How the tensors of the published format map to ours, by name and by rows.

ours                                   published
context_proj.*                         decoder_proj_context.*
rows of embedding.encoder_table        encoder_embeddings.<domain>.token_emb.weight
embedding.projections.<name>.weight    encoder_embeddings.<domain>.proj.weight, or emb_proj.weight and .bias
embedding.modality[i]                  encoder_embeddings.<domain>.mod_emb, decoder_embeddings.<domain>.mod_emb
rows of embedding.decoder_table        decoder_embeddings.<domain>.token_emb.weight
registers                              register_tokens
embedding.encoder_positions.<name>     encoder_embeddings.<domain>.pos_emb, where learned; likewise the decoder's
rows of heads.weight                   decoder_embeddings.<domain>.to_logits.weight
(computed)                             *.pos_emb, and the zero biases of norms that have none
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fourm_engine.nn.embeddings import sine_cosine_1d, sine_cosine_2d
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_plugins.spec import Grid, Layout, Sequence, Vector

#: Rows in the table of positions of a published sequence, regardless of the length of its texts.
SEQUENCE_ROWS = 512


@dataclass(frozen=True)
class Domain:
    """One modality of a file: `size` ids, or continuous tokens of `patch_dim` numbers each; the other is 0."""

    name: str
    layout: Layout
    size: int
    patch_dim: int
    input: bool
    target: bool
    rows: int = 0  # size of its table of positions in the file, if it is a sequence; 0: two per token
    patch: tuple[int, int] | None = None  # as in `Entry`; the file does not tell


def vocabulary_of(domains: Iterable[Domain], names: Mapping[str, str] | None = None) -> Vocabulary:
    """Rows in the file's order; `names`: domain -> our name, by default the domain's."""
    entries, start = [], 0
    for index, d in enumerate(domains):
        name, rows = (names or {}).get(d.name, d.name), (start, start + d.size)
        entries.append(Entry(name, index, *rows, d.layout, d.patch_dim, patch=d.patch))
        start += d.size
    return Vocabulary(entries)


class Part(NamedTuple):
    """The part of our parameter that a tensor of the file corresponds to: rows [first, stop) of `name`, stored with
    `shape`."""

    name: str
    first: int
    stop: int
    shape: tuple[int, ...]


def parts_of(
    network: Transformer, vocabulary: Vocabulary, domains: list[Domain], names: Mapping[str, str]
) -> dict[str, Part]:
    """Published key -> the corresponding part of our network, which may be on the meta device."""
    width, parts = network.config.width, dict[str, Part]()
    whole = {name: Part(name, 0, len(p), tuple(p.shape)) for name, p in network.named_parameters()}
    for name, part in whole.items():
        if not name.startswith(("embedding.", "heads.", "registers")):
            parts[name.replace("context_proj.", "decoder_proj_context.")] = part
    parts["mask_token"] = whole["embedding.mask_token"]._replace(shape=(1, 1, width))
    if network.registers is not None:
        parts["register_tokens"] = whole["registers"]._replace(shape=(1, *network.registers.shape))
    for domain in domains:
        entry = vocabulary[names[domain.name]]
        size, rows = (entry.size, width), (entry.start, entry.stop)
        for side in _sides(domain):
            stem = f"{side}_embeddings.{domain.name}"
            parts[f"{stem}.mod_emb"] = Part("embedding.modality", entry.index, entry.index + 1, (1, 1, width))
            if isinstance(domain.layout, Vector):
                positions = whole[f"embedding.{side}_positions.{entry.name}"]
                parts[f"{stem}.pos_emb"] = positions._replace(shape=(1, *positions.shape))
            if domain.patch_dim:
                ours = f"embedding.projections.{entry.name}"
                theirs = "emb_proj" if isinstance(domain.layout, Sequence) else "proj"
                fields = [field for field in ("weight", "bias") if f"{ours}.{field}" in whole]
                parts |= {f"{stem}.{theirs}.{field}": whole[f"{ours}.{field}"] for field in fields}
                continue
            parts[f"{stem}.token_emb.weight"] = Part(f"embedding.{side}_table", *rows, size)
            if side == "decoder":
                parts[f"{stem}.to_logits.weight"] = Part("heads.weight", *rows, size)
    return parts


def _sides(domain: Domain) -> list[str]:
    return [side for side, used in (("encoder", domain.input), ("decoder", domain.target)) if used]


def computed(network: Transformer, domains: Iterable[Domain]) -> dict[str, Tensor]:
    """Published key -> values implied by the shape: sine-cosine positions, and zero biases of norms without one."""
    tensors = {f"{name}.bias": torch.zeros(norm.weight.shape) for name, norm in bare_norms(network).items()}
    for domain in domains:
        if not isinstance(domain.layout, Vector):
            table = _positions(domain, network.config.width)[None]
            tensors |= {f"{side}_embeddings.{domain.name}.pos_emb": table for side in _sides(domain)}
    return tensors


def bare_norms(network: Transformer) -> dict[str, nn.LayerNorm]:
    """Norms without a bias, whose biases the format stores as zeros."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.LayerNorm) and m.bias is None}


def _positions(domain: Domain, width: int) -> Tensor:
    layout = domain.layout
    if isinstance(layout, Grid):
        return sine_cosine_2d(layout.height, layout.width, width)
    assert isinstance(layout, Sequence)
    return sine_cosine_1d(domain.rows or 2 * layout.max_tokens, width)

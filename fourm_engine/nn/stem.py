"""A convolutional stem: what a patch of a picture looks like beside its neighbours (Xiao et al., arXiv 2106.14881).

In: the patches that each sample shows of one continuous grid, and which they are. Out: an embedding per patch, which
`fourm_engine.nn.embeddings` adds to the patch's projection. Patches that are not shown are zeros, with a channel that
says so, and have no part in those that are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.nn.init import Initial

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from fourm_engine.vocabulary import Entry

#: Channels of the last convolutions; the model's width, if that is smaller.
MAX_CHANNELS = 256
MIN_CHANNELS = 8


def stem_entries(stem: str, vocabulary: Iterable[Entry]) -> list[Entry]:
    """The modalities that have a stem in a model whose `stem` is this."""
    return [entry for entry in vocabulary if entry.patch is not None] if stem == "conv" else []


class Layer(NamedTuple):
    """A convolution: channels in and out, kernel and stride as (rows, columns)."""

    channels: int
    out: int
    kernel: tuple[int, int]
    stride: tuple[int, int]


def layers(entry: Entry, width: int) -> list[Layer]:
    """The convolutions of a modality's stem: two of 3 × 3 for each halving of the picture, as long as both sides of a
    patch are even, and one, to `width` channels, that leaves one cell a patch. Channels double with each halving."""
    assert entry.patch is not None
    rows, columns = entry.patch
    halvings = 0
    while rows % 2 == 0 and columns % 2 == 0:
        rows, columns, halvings = rows // 2, columns // 2, halvings + 1
    channels = entry.patch_dim // (entry.patch[0] * entry.patch[1]) + 1  # one says which patches are shown
    convolutions = list[Layer]()
    for level in reversed(range(halvings)):
        out = max(MIN_CHANNELS, min(width, MAX_CHANNELS) >> level)
        convolutions += [Layer(channels, out, (3, 3), (2, 2)), Layer(out, out, (3, 3), (1, 1))]
        channels = out
    return [*convolutions, Layer(channels, width, (rows, columns), (rows, columns))]


class ConvStem(nn.Module):
    """The stem of one modality. Each sample is convolved alone."""

    def __init__(self, entry: Entry, width: int) -> None:
        super().__init__()
        assert entry.layout.kind == "grid"
        assert entry.patch is not None
        self.grid, self.patch = (entry.layout.height, entry.layout.width), entry.patch
        self.cells = entry.layout.num_tokens
        *inner, last = layers(entry, width)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(l.channels, l.out, l.kernel, l.stride, padding=1, bias=False) for l in inner
        )
        self.norms = nn.ModuleList(nn.LayerNorm(l.out) for l in inner)
        self.proj = nn.Conv2d(last.channels, last.out, last.kernel, last.stride, bias=False)

    def forward(self, patches: Float[Tensor, "B n P"], shown: Bool[Tensor, "B n"]) -> Float[Tensor, "B n D"]:
        """`patches`: all n patches of the grid, in row-major order, as `fourm_engine.masking.pack.patchify` flattens
        them; finite also where they are not shown. Cells that are not shown get an embedding that must not be used."""
        (h, w), (p, q) = self.grid, self.patch
        x = rearrange(patches, "b n (p q c) -> b n p q c", p=p, q=q)
        mask = shown[..., None, None, None].to(x.dtype)
        x = torch.cat([x * mask, mask.expand(*x.shape[:-1], 1)], dim=-1)
        x = rearrange(x, "b (h w) p q c -> b (h p) (w q) c", h=h, w=w)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x.movedim(-1, 1)).movedim(1, -1)))
        return self.proj(x.movedim(-1, 1)).flatten(2).mT

    def initial(self) -> dict[str, Initial]:
        """Convolution -> its initial values, which keep the variance: a stem weighs as much as the projection. With the
        last convolution at 0, mIoU was 0.467 instead of 0.532 (docs/ablations.md, 900 steps)."""

        def inputs(convolution: nn.Module) -> int:
            assert isinstance(convolution, nn.Conv2d)
            return convolution.weight[0].numel()

        initial = {"proj.weight": Initial("gaussian", inputs(self.proj) ** -0.5)}
        for number, convolution in enumerate(self.convolutions):
            initial[f"convolutions.{number}.weight"] = Initial("gaussian", (2 / inputs(convolution)) ** 0.5)
        return initial


def stem_flops(entry: Entry, width: int) -> tuple[float, float]:
    """FLOPs of a stem's forward pass over one picture: of its first convolution, and of the others."""
    first, *others = (2.0 * after * l.out * l.channels * math.prod(l.kernel) for l, _, after in _cells(entry, width))
    return first, sum(others)


def stem_numbers(entry: Entry, width: int) -> int:
    """Numbers that a stem keeps of one picture for its backward pass: of each convolution the input, its output and
    that of the norm."""
    return sum(before * l.channels + 2 * after * l.out for l, before, after in _cells(entry, width))


def _cells(entry: Entry, width: int) -> Iterator[tuple[Layer, int, int]]:
    """The convolutions of a stem, each with the cells of one picture before and after it."""
    assert entry.patch is not None
    cells = entry.layout.num_tokens * math.prod(entry.patch)
    for layer in layers(entry, width):
        before, cells = cells, cells // math.prod(layer.stride)
        yield layer, before, cells

"""Selects the trainable weights of a network: new rows of its tables, everything not frozen, low-rank adapters.

In: a `Transformer` whose vocabulary starts with that of a trained one, possibly with other grid sizes. Out: the same
network, whose outputs are bitwise unchanged until it is trained.

Rows and matrices are frozen by construction (`torch.nn.utils.parametrize`): known and new rows are separate parameters,
so that neither weight decay nor the optimiser's state can change the known ones. `plain_state` returns the weights of
an ordinary `Transformer` with the same outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from fourm_plugins.suggest import nearest

if TYPE_CHECKING:
    from fourm_engine.nn.transformer import Transformer
    from fourm_engine.vocabulary import Vocabulary

#: Parameters with rows for every modality: one row per id, or, for the last, per modality.
_BY_ID = ("embedding.encoder_table", "embedding.decoder_table", "heads.weight")
_BY_MODALITY = "embedding.modality"
POSITIONS = ("embedding.encoder_positions.", "embedding.decoder_positions.")
#: Suffix of the name of a table's known, frozen rows.
KNOWN = ".known"
#: Tables whose new rows are drawn at the scale of the known rows. Output rows start small, at a loss of ln V.
SCALED = ("embedding.encoder_table", "embedding.decoder_table", _BY_MODALITY)


class NewRows(nn.Module):
    """A table of known, frozen rows and new, trainable ones. Both are parameters, so that sharding divides them."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known = nn.Parameter(known, requires_grad=False)

    def forward(self, new: Tensor) -> Tensor:
        return torch.cat([self.known, new])

    def right_inverse(self, table: Tensor) -> Tensor:
        return table[len(self.known) :].clone()


class LowRank(nn.Module):
    """W + alpha / rank · B A (LoRA, arXiv 2106.09685, section 4.1): A is random, B starts at zero. W is (out, in)."""

    def __init__(self, weight: Tensor, *, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, columns).normal_(std=columns**-0.5))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down)


@torch.no_grad()
def copy_weights(network: Transformer, source: Transformer) -> None:
    """Copy the weights of `source`, whose vocabulary is a prefix of that of `network`. New weights keep their initial
    values, except embeddings, which get the root mean square of the known rows. Learned positions of another length are
    interpolated."""
    known = source.state_dict()
    for name, tensor in network.state_dict().items():
        if name not in known:  # a projection or learned positions of a new modality, registers, a block
            if starts_at_zero(name, known):
                tensor.zero_()
            continue
        if name.startswith(POSITIONS) and len(tensor) != len(known[name]):
            tensor.copy_(resized(known[name], len(tensor)))
            continue
        count = len(known[name])
        if name in SCALED and 0 < count < len(tensor):
            tensor[count:] *= known[name].square().mean().sqrt() / tensor[count:].square().mean().sqrt()
        tensor[:count] = known[name]


def starts_at_zero(name: str, known: Collection[str]) -> bool:
    """Whether a new weight is the last of a block's branch, or of the stem of a modality whose projection is among the
    `known` weights: with 0 it adds nothing to what the model has learned."""
    if name.startswith("embedding.stems."):
        projection = name.replace(".stems.", ".projections.").replace(".proj.weight", ".weight")
        return name.endswith(".proj.weight") and projection in known
    return name.startswith(("encoder.", "decoder.")) and name.endswith((".proj.weight", ".fc2.weight"))


def resized(positions: Tensor, number: int) -> Tensor:
    """Learned positions (n, D), interpolated to another number."""
    return F.interpolate(positions.T[None], number, mode="linear", align_corners=False)[0].T


def freeze_known(network: Transformer, known: Vocabulary) -> None:
    """Freeze everything except what belongs to modalities outside `known`."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    embedding = network.embedding
    for container in (embedding.projections, embedding.stems, embedding.encoder_positions, embedding.decoder_positions):
        # Parts of a single modality.
        for name, parameter in container.named_parameters():
            parameter.requires_grad_(name.partition(".")[0] not in known)
    for name in (*_BY_ID, _BY_MODALITY):
        count = len(known) if name == _BY_MODALITY else known.size
        path, _, attribute = name.rpartition(".")
        module = network.get_submodule(path)
        table = getattr(module, attribute)
        if count < len(table):
            parametrize.register_parametrization(module, attribute, NewRows(table.detach()[:count].clone()))
            _original(module, attribute).requires_grad_(True)


def freeze(network: Transformer, patterns: Iterable[str], *, setting: str) -> None:
    """Freeze the parameters that match one of `patterns`; see `match_names`."""
    names = dict(network.named_parameters())
    for name in match_names(names, patterns, setting=setting, what="parameter"):
        names[name].requires_grad_(False)


def match_names(names: Iterable[str], patterns: Iterable[str], *, setting: str, what: str) -> list[str]:
    """The dotted `names` that a pattern matches fully or as a prefix: "encoder", "encoder.0", "*.mlp". Raises
    ValueError, with the name of the `setting`, for a pattern without a match."""
    names, matched = list(names), set()
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not matching:
            raise ValueError(f"{setting}: no {what} is called {pattern!r}; {_meant(pattern, names)}")
        matched.update(matching)
    return [name for name in names if name in matched]


def _meant(pattern: str, names: Sequence[str]) -> str:
    """The nearest part, in full or as "*.mlp"; if none is similar, the parts of the network."""
    top = sorted({name.partition(".")[0] for name in names})
    parts = {name.rsplit(".", levels)[0] for name in names for levels in range(name.count(".") + 1)}
    known = parts if "." in pattern else top
    if pattern.startswith("*."):
        known = {f"*.{part}" for name in names for part in name.split(".") if not part.isdecimal()}
    near = nearest(pattern, known)
    return f"did you mean {near!r}?" if near else f"its parts: {', '.join(top)}"


def add_lora(
    network: Transformer,
    *,
    rank: int,
    alpha: float,
    matrices: Sequence[str] = ("encoder", "decoder"),
    setting: str = "lora.matrices",
) -> None:
    """Add adapters to the linear layers that `matrices` match (see `match_names`), and freeze their weights. The
    outputs are unchanged until the adapters are trained."""
    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    for name in match_names(layers, matrices, setting=setting, what="linear layer"):
        adapter = LowRank(layers[name].weight.detach(), rank=rank, alpha=alpha)
        parametrize.register_parametrization(layers[name], "weight", adapter)
        _original(layers[name], "weight").requires_grad_(False)


@torch.no_grad()
def plain_state(network: Transformer) -> dict[str, Tensor]:
    """The state of an ordinary `Transformer` with the same outputs: tables joined, adapters merged into weights."""
    state = {name: tensor for name, tensor in network.state_dict().items() if "parametrizations" not in name.split(".")}
    for path, module, attribute in _parametrized(network):
        state[f"{path}.{attribute}"] = getattr(module, attribute)
    return state


def learned(network: nn.Module, state: Mapping[str, Tensor], known: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The part of `state`, a network with adapters, that `merged` needs: `<matrix>.down` and `<matrix>.up`, the other
    trainable parameters, and everything new or of another shape. `network` may be on the meta device. `known`: the
    shapes of the model that it was derived from."""
    tensors = {}
    for name, parameter in network.named_parameters():
        changes = parameter.requires_grad or known.get(name) != tuple(parameter.shape)
        if changes and "parametrizations" not in name.split("."):
            tensors[name] = state[name]
    for path, _, attribute in _parametrized(network):
        for factor in ("down", "up"):
            tensors[f"{path}.{attribute}.{factor}"] = state[f"{path}.parametrizations.{attribute}.0.{factor}"]
    return tensors


@torch.no_grad()
def merged(
    base: Mapping[str, Tensor], learned: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, scale: float
) -> dict[str, Tensor]:
    """The state of an ordinary `Transformer` with these shapes: `base` updated with `learned`. Raises ValueError,
    naming the first, if a tensor is missing or of another shape."""
    state = {}
    for name, shape in shapes.items():
        tensor = learned.get(name, base.get(name))
        if tensor is None or tensor.shape != shape:
            raise ValueError(f"{name} is {'missing' if tensor is None else f'of shape {tuple(tensor.shape)}'}")
        down, up = learned.get(f"{name}.down"), learned.get(f"{name}.up")
        if (down is None) != (up is None) or (down is not None and up is not None and len(down) != up.shape[1]):
            raise ValueError(f"{name}: down and up do not match")
        state[name] = tensor if down is None or up is None else tensor + scale * (up @ down)
    return state


def _original(module: nn.Module, attribute: str) -> nn.Parameter:
    parametrizations = module.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    original = parametrizations[attribute].original
    assert isinstance(original, nn.Parameter)
    return original


def _parametrized(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(path, module, attribute) of every parametrized weight."""
    for path, module in network.named_modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for attribute in module.parametrizations:
                yield path, module, attribute

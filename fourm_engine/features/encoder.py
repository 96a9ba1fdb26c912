"""`Encoder`: the encoder of a trained model as an `nn.Module`, from any of its input modalities to features.

    encoder = fm.encoder("runs/demo", inputs=[given, another])
    pooled = encoder([{given: "photo.png"}, {given: array, another: "words"}, {}])  # (3, encoder.num_features)
    features = encoder.forward_features([{given: "photo.png"}])                      # a feature a token
    features.grid(given)                                                             # (1, D, h, w)
    encoder.pyramid([{given: "photo.png"}], given)                                   # four maps, the finest first

Values are as in `FourM.generate`. The encoder is differentiable, so it can be trained further.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.generate.inputs import InputReader
from fourm_engine.generate.validation import inputs_of, names_of
from fourm_engine.masking.pack import Shown, ordered, pack_inputs
from fourm_engine.nn.parts import encoder_of
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.spec import Grid
from fourm_plugins.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

#: Levels of a pyramid: cells per cell of the grid, in rows and in columns.
SCALES = (4.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True, eq=False)
class ReadSample:
    """The tokens of one sample, and {name as given: modality that shows it}."""

    shown: dict[str, Shown]
    shown_as: dict[str, str]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of B samples of at most N tokens, padded at the end.

    `values`: after the encoder's final norm; undefined for padding. `modality`: index in `vocabulary`, -1 for padding.
    `position`: index in the grid or vector, rank in the sequence."""

    values: Float[Tensor, "B N D"]
    valid: Bool[Tensor, "B N"]
    modality: Int[Tensor, "B N"]
    position: Int[Tensor, "B N"]
    vocabulary: Vocabulary
    shown_as: list[dict[str, str]]

    def pooled(self) -> Float[Tensor, "B D"]:
        """The mean over the tokens of each sample; 0 for a sample without tokens."""
        valid = self.valid[..., None]
        return torch.where(valid, self.values, 0.0).sum(1) / valid.sum(1).clamp(min=1)

    def grid(self, name: str) -> Float[Tensor, "B D h w"]:
        """The features of the input `name`, a grid, as a map; 0 for samples or tokens without it. Raises ValueError if
        it is not a grid, or if the samples have grids of several sizes."""
        shown = [names.get(name, name) for names in self.shown_as]
        entries = [self.vocabulary[modality] for modality in shown]
        layouts = {entry.layout for entry in entries}
        layout = layouts.pop()
        if not isinstance(layout, Grid):
            raise ValueError(f"{name!r} is a {layout.kind}, not a grid; use forward_features")
        if layouts:
            raise ValueError(f"{name!r}: the batch has it in grids of several sizes; give all of it in one form")
        index_B1 = torch.tensor([[entry.index] for entry in entries], device=self.modality.device)
        row, slot = (self.modality == index_B1).nonzero(as_tuple=True)
        map_BLD = self.values.new_zeros(len(self.values), layout.num_tokens, self.values.shape[2])
        map_BLD = map_BLD.index_put((row, self.position[row, slot]), self.values[row, slot])
        return map_BLD.unflatten(1, (layout.height, layout.width)).permute(0, 3, 1, 2)


class Source(Protocol):
    """A `FourM`, or anything that has an encoder and reads its inputs like one."""

    @property
    def reader(self) -> InputReader: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def tokenizers(self) -> Mapping[str, Tokenizer]: ...
    @property
    def network(self) -> Transformer: ...


class Encoder(nn.Module):
    """The encoder of `model`, sharing its weights, in evaluation mode.

    `inputs`: modalities that samples may have; by default all that the model takes. Raises ValueError for one that it
    does not take."""

    def __init__(self, model: Source, inputs: Iterable[str] | str | None = None) -> None:
        super().__init__()
        self.reader, self.vocabulary = model.reader, model.vocabulary
        names = names_of("inputs", model.reader.input_names if inputs is None else inputs)
        #: Name -> modality that shows its values.
        self.inputs = {name: self.reader.instance(name, raw=True).name for name in names}
        for name, shown in self.inputs.items():
            if shown not in self.reader.input_names:
                raise ValueError(f"inputs: {name!r} is a target only; use {', '.join(self.reader.input_names)}")
        self.network = encoder_of(model.network)
        self._tokenizers = {name: t.fingerprint for name, t in sorted(model.tokenizers.items())}
        #: Number of blocks below each level of a pyramid: in even steps up to all of them.
        blocks = len(self.network.encoder)
        self.depths = [math.ceil(blocks * (level + 1) / len(SCALES)) for level in range(len(SCALES))]
        self.eval()

    def __repr__(self) -> str:
        inputs = ", ".join(self.inputs)
        return (
            f"<Encoder: {len(self.network.encoder)} blocks, {self.num_features} features, on {self.device}; {inputs}>"
        )

    @property
    def num_features(self) -> int:
        """D, the width of the features."""
        return self.network.config.width

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """As in timm, a dict for each level of `pyramid`: `module`, which outputs it; `num_chs`, D; `reduction`, pixels
        of the first grid among `inputs` per cell of the level. Raises ValueError without a grid."""
        specs = [self.reader.modalities[name].spec for name in self.inputs.values()]
        patches = [spec.patch[0] for spec in specs if isinstance(spec.layout, Grid)]
        if not patches:
            raise ValueError(f"no grid among the inputs {', '.join(self.inputs)}; only grids have pyramids")
        return [
            {
                "module": f"network.encoder.{depth - 1}" if depth else "network.embedding",
                "num_chs": self.num_features,
                "reduction": int(size) if (size := patches[0] / scale).is_integer() else size,
            }
            for depth, scale in zip(self.depths, SCALES, strict=True)
        ]

    @property
    def device(self) -> torch.device:
        return self.network.encoder_norm.weight.device

    def read(self, inputs: Mapping[str, Any]) -> ReadSample:
        """The tokens of one sample; may be called in the workers of a loader. A value of None counts as missing. Raises
        ValueError, one line, for a name outside `inputs`, and for an invalid value."""
        given = {name: value for name, value in inputs_of([inputs])[0].items() if value is not None}
        for name in given:
            shown = self.reader.instance(name, raw=True).name  # raises if the model has no such modality
            if name not in self.inputs and shown not in self.inputs.values():
                raise ValueError(f"{name!r} is not among the inputs of this encoder: {', '.join(self.inputs)}")
        sample, shown_as = self.reader.read(given, ())
        if weighted := [*sample.weights, *sample.regions]:
            raise ValueError(f"{weighted[0]!r}: a weight is for generation; leave it out")
        return ReadSample({name: sample.shown[name] for name in ordered(self.vocabulary, sample.shown)}, shown_as)

    def forward_features(self, inputs: Sequence[Mapping[str, Any] | ReadSample]) -> Features:
        """Features of every token.

        `inputs`: for each sample a mapping {name: value}, or the result of `read`; any or all inputs may be missing. A
        sample's features do not depend on the rest of the batch. Raises ValueError as `read` does, and for an empty
        batch."""
        return self._forward(inputs, [len(self.network.encoder)])[0]

    def forward_intermediates(
        self, inputs: Sequence[Mapping[str, Any] | ReadSample], indices: int | Sequence[int]
    ) -> list[Features]:
        """`forward_features` after each of the blocks `indices`, counted from 0, or from the last with -1; an int n
        means the last n. All with the final norm. Also raises ValueError for a block that does not exist."""
        blocks = len(self.network.encoder)
        chosen = list(range(blocks - indices, blocks)) if isinstance(indices, int) else list(indices)
        if wrong := [index for index in chosen if not -blocks <= index < blocks]:
            raise ValueError(f"indices: no block {wrong[0]}; the encoder has {blocks}")
        return self._forward(inputs, [index % blocks + 1 for index in chosen])

    def pyramid(
        self, inputs: Sequence[Mapping[str, Any] | ReadSample], name: str
    ) -> list[Float[Tensor, "B D rows columns"]]:
        """Feature maps of the input `name` at several resolutions: after every quarter of the blocks, with 4, 2, 1 and
        ½ times the rows and columns of its grid (see `feature_info`). Without learned parameters: finer maps are
        interpolated (bilinear), coarser ones averaged. 0 where `grid` is 0.

        Raises ValueError as `forward_features` and `Features.grid` do."""
        levels = self._forward(inputs, self.depths)
        return [_scaled(level.grid(name), scale) for level, scale in zip(levels, SCALES, strict=True)]

    def _forward(self, inputs: Sequence[Mapping[str, Any] | ReadSample], depths: Sequence[int]) -> list[Features]:
        if isinstance(inputs, (Mapping, ReadSample)):
            raise ValueError("inputs: expected a list of samples, not a single sample")
        samples = [sample if isinstance(sample, ReadSample) else self.read(sample) for sample in inputs]
        if not samples:
            raise ValueError("inputs: no samples; give at least one")
        capacity = max(sum(map(len, sample.shown.values())) for sample in samples)
        tokens, continuous = pack_inputs([s.shown for s in samples], self.vocabulary, capacity, self.device)
        states, valid = self.network.encode_depths(tokens, continuous, depths)
        names = [self.inputs | sample.shown_as for sample in samples]
        return [Features(values, valid, tokens.mod, tokens.pos, self.vocabulary, names) for values in states]

    def forward(self, inputs: Sequence[Mapping[str, Any] | ReadSample]) -> Float[Tensor, "B D"]:
        """The mean of `forward_features` over the tokens of each sample; 0 for a sample without tokens."""
        return self.forward_features(inputs).pooled()

    def fingerprint(self) -> str:
        """16 hex digits of the weights, tokenizers and grids: encoders with equal fingerprints give comparable
        features."""
        digest = hashlib.sha256(repr(self._tokenizers).encode())
        digest.update(repr([(e.name, e.layout) for e in self.vocabulary if e.position_grid]).encode())
        digest_weights(self, digest)
        return digest.hexdigest()[:16]


def digest_weights(module: nn.Module, digest: Any) -> None:
    """Add all weights of a module to a `hashlib` digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _scaled(map_BDhw: Tensor, scale: float) -> Tensor:
    rows, columns = (max(1, round(edge * scale)) for edge in map_BDhw.shape[2:])
    if scale > 1:
        return F.interpolate(map_BDhw, (rows, columns), mode="bilinear", align_corners=False)
    return map_BDhw if scale == 1 else F.adaptive_avg_pool2d(map_BDhw, (rows, columns))

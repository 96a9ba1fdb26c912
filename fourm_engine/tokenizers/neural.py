"""Tokenizers that are networks, trained by `fourm_engine.fit`.

A subclass provides the network (`network`), for a spec whose array is a feature map, class map or feature vector; this
module implements what they share: validating and batching arrays, saving and loading, the fingerprint.

One fitted tokenizer serves grids of any size if its codecs have a `position_grid`: the same patches get the same codes
and ids, and positions are resized to the grid at hand.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fourm_engine.tokenizers.network import TokenizerNetwork, chunk, filled
from fourm_engine.tokenizers.quantisers.base import full_precision
from fourm_engine.tokenizers.vit import position_grid
from fourm_engine.weights import opened, tensor_file
from fourm_plugins.arrays import check_ids, misfit
from fourm_plugins.spec import ClassMap, FeatureMap, Grid, ModalitySpec
from fourm_plugins.tokenizer import Tokenizer

WEIGHTS, CARRIED = "weights.safetensors", "published.safetensors"


@dataclass(frozen=True)
class Carried:
    """Contents of a published file besides the fitted state, kept for converting back; otherwise unused."""

    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    #: Shapes of tensors that differ from the usual ones in that file.
    shapes: dict[str, list[int]]


class NeuralTokenizer(Tokenizer):
    """A tokenizer around `self.network`, which is on the device that it was moved to. With several specs, grids of the
    same patches, it accepts and returns arrays of the first; `for_spec` returns the tokenizer of another, around the
    same network."""

    network: TokenizerNetwork
    carried: Carried | None = None

    def __init__(self, specs: Sequence[ModalitySpec], **settings: Any) -> None:
        super().__init__(specs, **settings)
        for other in self.specs[1:]:
            self._check_alike(other)
        self.network = self.make_network()
        self.network.eval()
        self.positional = self.network.quantiser.positional

    @abstractmethod
    def make_network(self) -> TokenizerNetwork:
        """The network with initial weights drawn from torch's generator."""

    def starting_network(self) -> TokenizerNetwork:
        """The network from which training starts: a new one, unless fitted parts are reused."""
        return self.make_network()

    @abstractmethod
    def counts(self, arrays: Tensor) -> dict[str, float]:
        """The number of items in each sum of `network(arrays)`; computed on the host."""

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Weight of each term of the loss."""

    def tokens(self, arrays: Tensor) -> int:
        """Number of ids in a batch of arrays."""
        return len(arrays) * self.spec.layout.num_tokens

    def for_spec(self, spec: ModalitySpec) -> NeuralTokenizer:
        """This tokenizer, with the same network, for the arrays of `spec`, a grid of another size."""
        self._check_alike(spec)
        other = copy.copy(self)
        other.specs = (spec, *(known for known in self.specs if known.name != spec.name))
        return other

    def _check_alike(self, spec: ModalitySpec) -> None:
        """Raise ValueError if one network cannot serve both the first spec and the given one."""
        first = self.spec
        if first.array == spec.array and first.layout == spec.layout:
            return
        if not isinstance(first.layout, Grid) or not isinstance(spec.layout, Grid):
            raise ValueError(
                f"a {self.kind} tokenizer serves several modalities only where they are grids; give {first.name} and "
                f"{spec.name} token spaces of their own"
            )
        if first.patch != spec.patch or first.on_grid(1, 1).array != spec.on_grid(1, 1).array:
            raise ValueError(
                f"{first.name} has {_patches(first)}, {spec.name} has {_patches(spec)}: one tokenizer cannot serve "
                f"both; make them alike, or give each a token space of its own"
            )
        if position_grid(self.settings) is None:
            raise ValueError(
                f"the tokenizer of {first.name} was fitted for {_size(first)} pixels alone, not for the {_size(spec)} "
                f"of {spec.name}; fit it with `adapt` or in a token space that several sizes share"
            )

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) of the tokens; None if they do not form a grid."""
        layout = self.spec.layout
        return (layout.height, layout.width) if isinstance(layout, Grid) else None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> NeuralTokenizer:
        """Move the network. Returns self."""
        self.network.to(device)
        return self

    def tensor(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Arrays of the spec's shape -> one CPU tensor (B, …), float32 or int64. Raises ValueError, naming the
        modality, if shape, dtype or values do not match the spec."""
        for array in arrays:
            if wrong := misfit(self.spec, array):
                raise ValueError(f"{self.spec.name}: {wrong}")
        return torch.from_numpy(np.stack(arrays))

    def encode(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        ids: list[np.ndarray] = []
        size = chunk(self.device)
        for start in range(0, len(arrays), size):
            x = self.tensor(arrays[start : start + size])
            ids.extend(self._run(self.network.encode, filled(x, size))[: len(x)])
        return ids

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        arrays: list[np.ndarray] = []
        size = chunk(self.device)
        for start in range(0, len(ids), size):
            rows = [np.asarray(row, np.int64) for row in ids[start : start + size]]
            for row in rows:
                check_ids(self.spec, row)
            arrays.extend(self._run(self.network.decode, torch.from_numpy(np.stack(rows)), self.grid))
        return arrays

    def decode_expected(self, probabilities: np.ndarray) -> list[Any]:
        shape, expected = probabilities.shape[1:], (self.spec.layout.num_tokens, self.size)
        if shape != expected:
            raise ValueError(f"{self.spec.name}: tokens of shape {shape}, expected {expected}")
        parts = torch.from_numpy(np.asarray(probabilities, np.float32)).split(chunk(self.device))
        return [array for part in parts for array in self._run(self.network.decode_expected, part, self.grid)]

    @torch.inference_mode()
    def code_vectors(self) -> np.ndarray | None:
        if self.positional:
            return None
        return self.network.quantiser.lookup(torch.arange(self.size, device=self.device)).float().cpu().numpy()

    @torch.inference_mode()
    def _run(self, method: Callable[..., Tensor], x: Tensor, *arguments: Any) -> list[np.ndarray]:
        if self.network.training:
            self.network.eval()
        x = x.to(self.device)
        with full_precision(x):  # disable autocast, so that ids and arrays are the same in a training run
            return list(method(x, *arguments).cpu().numpy())

    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Raises ValueError: networks are trained by the trainer, which tokenizers do not import."""
        raise ValueError(
            f"{self.spec.name}: a tokenizer of kind {self.kind!r} is a network; fit it with `fourm tokenizer fit`, or "
            f"in Python with fourm_engine.fit.fitting.fit_network(tokenizer, arrays)"
        )

    def state(self, *, copy: bool = True) -> dict[str, Tensor]:
        """The fitted state, without training state: CPU tensors, or with `copy=False` the network's own tensors."""
        skip = self.network.training_state
        kept = {k: v.detach() for k, v in self.network.state_dict().items() if k not in skip}
        return {k: v.cpu() for k, v in kept.items()} if copy else kept

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Load a fitted state, or a whole state dict of the network. Raises ValueError for other tensors."""
        wanted = self.state()
        missing = sorted(wanted.keys() - state.keys())
        if missing:
            raise ValueError(f"{self.spec.name}: lacks {missing[0]} ({len(missing)} missing); other settings?")
        for name, value in wanted.items():
            if state[name].shape != value.shape:
                raise ValueError(
                    f"{self.spec.name}: {name} is of shape {tuple(state[name].shape)}, expected {tuple(value.shape)}; "
                    f"these weights were fitted with other settings"
                )
        self.network.load_state_dict({name: state[name] for name in wanted}, strict=False)
        self.network.quantiser.mark_fitted()
        self.network.eval()

    @property
    def fingerprint(self) -> str:
        """The same for all grid sizes, since the same network computes the ids."""
        digest = hashlib.sha256()
        stored = position_grid(self.settings)
        spec = self.spec if stored is None else self.spec.on_grid(*stored)
        facts: list[Any] = [self.kind, self.stored_settings(), spec.array.model_dump(mode="json")]
        facts += [spec.layout.model_dump(mode="json"), self.size]
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for name, value in sorted(self.state().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        save_file({name: value.contiguous() for name, value in self.state().items()}, folder / WEIGHTS)
        if self.carried is not None:
            note = {"arguments": json.dumps(self.carried.arguments), "shapes": json.dumps(self.carried.shapes)}
            save_file(self.carried.tensors, folder / CARRIED, metadata=note)

    def load(self, folder: Path) -> None:
        try:
            with tensor_file(folder / WEIGHTS) as file:
                self.adopt({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            self.carried = _read_carried(folder / CARRIED)
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{folder / WEIGHTS}: {error}") from None

    @classmethod
    def restore(cls, specs: Sequence[ModalitySpec], settings: Mapping[str, Any], folder: Path) -> NeuralTokenizer:
        """Memory is allocated only if the sizes in the file match the settings."""
        with torch.device("meta"):
            planned = cls(specs, **settings)
        expected = {name: tuple(value.shape) for name, value in planned.state(copy=False).items()}
        with opened(folder / WEIGHTS, expected, to="the tokenizer's settings", remedy="fit it again"):
            return super().restore(specs, settings, folder)  # type: ignore[return-value]


def _read_carried(path: Path) -> Carried | None:
    if not path.is_file():
        return None
    try:
        with tensor_file(path) as file:
            arguments, shapes = (dict(json.loads((file.metadata() or {})[key])) for key in ("arguments", "shapes"))
            return Carried(arguments, {key: file.get_tensor(key) for key in file.keys()}, shapes)  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read ({error!r:.200}); convert the tokenizer again") from None


def _size(spec: ModalitySpec) -> str:
    assert isinstance(spec.array, (FeatureMap, ClassMap))
    return f"{spec.array.height}x{spec.array.width}"


def _patches(spec: ModalitySpec) -> str:
    array = spec.array
    assert isinstance(array, (FeatureMap, ClassMap))
    channels = f"{array.classes} classes" if isinstance(array, ClassMap) else f"{array.channels} channels"
    return f"patches of {spec.patch[0]}x{spec.patch[1]} pixels, {channels}"

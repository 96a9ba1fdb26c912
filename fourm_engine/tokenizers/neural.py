"""Tokenizers that are networks, learned by gradient with the one trainer (`fourm_engine.tasks.tokenizer`).

In: a spec whose array is a feature map, class map or feature vector. A subclass brings a network; this module brings
what all of them share: checking and batching arrays, saving and loading, the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fourm_engine.data.aligned import check_array
from fourm_engine.tokenizers.quantisers.base import Quantiser
from fourm_plugins.modality import SampleError
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.tokenizer import Tokenizer

WEIGHTS = "weights.safetensors"
# Arrays that pass the network together. Encoding always fills the chunk up, so that every product has the same shape,
# and with that the same rounding, whatever the caller's batch: ids do not depend on what an array is encoded with.
CHUNK = 8


class TokenizerNetwork(nn.Module):
    """A network with a discrete bottleneck. `forward` is what is trained; encoding and decoding are methods of their
    own."""

    quantiser: Quantiser

    @property
    def training_state(self) -> frozenset[str]:
        """Names of buffers that only training needs."""
        return frozenset(f"quantiser.{name}" for name in self.quantiser.training_state)

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sums of the loss terms over a batch of arrays; what each runs over is said by `NeuralTokenizer.counts`."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Arrays (B, …) -> ids int64 (B, N)."""

    @abstractmethod
    def decode(self, ids_BN: Tensor) -> Tensor:
        """Ids (B, N) -> arrays (B, …)."""

    @abstractmethod
    def decode_expected(self, probabilities_BNK: Tensor) -> Tensor:
        """Distributions over ids (B, N, K) -> arrays (B, …)."""

    def blocks(self) -> list[nn.Module]:
        """Parts to shard one by one over several GPUs."""
        return []

    def after_step(self, step: int, steps: int) -> None:
        """After the optimiser's `step` (from 0) of `steps`, in every process."""
        self.quantiser.after_step(step, steps)

    def progress(self) -> dict[str, Tensor]:
        """Scalars worth following while training."""
        return self.quantiser.progress()


class NeuralTokenizer(Tokenizer):
    """A tokenizer around `self.network`, which lives on the device it was moved to."""

    network: TokenizerNetwork

    def __init__(self, specs: Sequence[ModalitySpec], **settings: Any) -> None:
        super().__init__(specs, **settings)
        if len(self.specs) > 1:
            names = ", ".join(spec.name for spec in self.specs)
            raise ValueError(f"a {self.kind} tokenizer serves one modality, not {names}; give each its own token space")
        self.network = self.make_network()
        self.network.eval()
        self.positional = self.network.quantiser.positional

    @abstractmethod
    def make_network(self) -> TokenizerNetwork:
        """The network with initial weights drawn from torch's generator."""

    @abstractmethod
    def counts(self, arrays: Tensor) -> dict[str, float]:
        """Host-side: over how many items each sum of `network(arrays)` runs."""

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Weight of each term of the loss."""

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> NeuralTokenizer:
        """Move the network. Returns self."""
        self.network.to(device)
        return self

    def tensor(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Arrays of the spec's shape -> one CPU tensor (B, …), float32 or int64.

        Raises ValueError naming the modality where shape, type or values are not what the spec says."""
        for array in arrays:
            try:
                check_array(self.spec, array)
            except SampleError as error:
                raise ValueError(f"{self.spec.name}: {error}") from None
        return torch.from_numpy(np.stack(arrays))

    def encode(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        ids: list[np.ndarray] = []
        for start in range(0, len(arrays), CHUNK):
            x = self.tensor(arrays[start : start + CHUNK])
            filled = torch.cat([x, x[:1].expand(CHUNK - len(x), *x.shape[1:])]) if len(x) < CHUNK else x
            ids.extend(self._run(self.network.encode, filled)[: len(x)])
        return ids

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        arrays: list[np.ndarray] = []
        for start in range(0, len(ids), CHUNK):
            rows = [np.asarray(row, np.int64) for row in ids[start : start + CHUNK]]
            for row in rows:
                self._check_tokens(row.shape, (self.spec.layout.num_tokens,))
                if row.min() < 0 or row.max() >= self.size:
                    raise ValueError(f"{self.spec.name}: ids {row.min()}…{row.max()} are not in [0, {self.size})")
            arrays.extend(self._run(self.network.decode, torch.from_numpy(np.stack(rows))))
        return arrays

    def decode_expected(self, probabilities: np.ndarray) -> list[Any]:
        self._check_tokens(probabilities.shape[1:], (self.spec.layout.num_tokens, self.size))
        parts = torch.from_numpy(np.asarray(probabilities, np.float32)).split(CHUNK)
        return [array for part in parts for array in self._run(self.network.decode_expected, part)]

    @torch.inference_mode()
    def _run(self, method: Callable[[Tensor], Tensor], x: Tensor) -> list[np.ndarray]:
        self.network.eval()
        return list(method(x.to(self.device)).cpu().numpy())

    def _check_tokens(self, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if tuple(found) != expected:
            raise ValueError(f"{self.spec.name}: tokens of shape {tuple(found)}, expected {expected}")

    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Learn with the default settings of `fourm_engine.tokenizers.config.FitConfig`, all arrays in memory."""
        from fourm_engine.tokenizers.config import FitConfig
        from fourm_engine.tokenizers.fit import fit_network

        return fit_network(self, list(arrays()), FitConfig())

    def state(self) -> dict[str, Tensor]:
        """The fitted state: parameters and codebook, without what only training needs; CPU tensors."""
        skip = self.network.training_state
        return {k: v.detach().cpu() for k, v in self.network.state_dict().items() if k not in skip}

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take over a fitted state, or a whole state dict of the network. Raises ValueError for other tensors."""
        wanted = self.state()
        missing = sorted(wanted.keys() - state.keys())
        if missing:
            raise ValueError(
                f"{self.spec.name}: the weights lack {missing[0]} ({len(missing)} missing); other settings?"
            )
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
        digest = hashlib.sha256()
        facts = [self.kind, self.settings.model_dump(mode="json"), self.spec.array.model_dump(mode="json")]
        facts += [self.spec.layout.model_dump(mode="json"), self.size]
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for name, value in sorted(self.state().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        save_file({name: value.contiguous() for name, value in self.state().items()}, folder / WEIGHTS)

    def load(self, folder: Path) -> None:
        try:
            self.adopt(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{folder / WEIGHTS}: {error}") from None

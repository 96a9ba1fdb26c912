"""AdaptTask: adapts a fitted grid tokenizer to several sizes (4M-21, arXiv 2406.09406, appendix on tokenizers: train at
one resolution, then briefly over a range of them).

In: the finished run of a `TokenizerTask`, and the tokenizer's arrays at every size. Out: the fitted state of one
tokenizer for all sizes. Every batch has one size, a pure function of (seed, step); codebook learning continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fourm_engine.data.order import Share, name_rng
from fourm_engine.fit.samples import ArrayData
from fourm_engine.fit.task import TokenizerTask
from fourm_engine.tokenizers.network import TokenizerNetwork
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.train.checkpoint import load, open_checkpoint
from fourm_plugins.spec import ClassMap, FeatureMap


@dataclass(frozen=True)
class SizedArrays:
    """Arrays of one size, for training (the same number at every size) and held out."""

    tokenizer: NeuralTokenizer
    train: ArrayData
    val: ArrayData | None

    @property
    def name(self) -> str:
        array = self.tokenizer.spec.array
        assert isinstance(array, (FeatureMap, ClassMap))
        return f"{array.height}x{array.width}"


class AdaptTask(TokenizerTask):
    """`start`: the last checkpoint of the preceding run."""

    def __init__(
        self, tokenizer: NeuralTokenizer, sizes: Sequence[SizedArrays], *, start: Path, steps: int, seed: int
    ) -> None:
        super().__init__(tokenizer, sizes[0].train, None, steps=steps, seed=seed)
        assert len({len(size.train) for size in sizes}) == 1
        self.sizes, self.start = tuple(sizes), start
        self.name = f"tokenizer of {tokenizer.spec.name} at {', '.join(size.name for size in sizes)}"
        self._fitted = tokenizer.state()

    def model(self) -> TokenizerNetwork:
        """The network with the state of the preceding run: weights and codebook statistics, or their averages."""
        network = super().model()
        state, checkpoint = network.state_dict(), open_checkpoint(self.start)
        load(checkpoint, {f"model/{name}": tensor for name, tensor in state.items()})
        load(checkpoint, {f"ema/{name}": tensor for name, tensor in state.items()}, optional=("ema/",))
        network.load_state_dict(state | self._fitted)
        return network

    def source(self, step: int) -> tuple[NeuralTokenizer, ArrayData]:
        size = self.sizes[int(name_rng(self.seed, "size", step).integers(len(self.sizes)))]
        return size.tokenizer, size.train

    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        """Loss terms on held-out arrays of every size."""
        by_size: dict[str, tuple[float, float]] = {}
        for size in self.sizes:
            scores = self.evaluate_on(model, share, size.tokenizer, size.val)
            by_size |= {f"{name} {size.name}": score for name, score in scores.items()}
        return by_size

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"tokenizer.sizes": [size.name for size in self.sizes]}

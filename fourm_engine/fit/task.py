"""TokenizerTask: fits a neural tokenizer with the shared trainer.

In: a `NeuralTokenizer` and its arrays. Out: the fitted state below the run's folder, which the tokenizer itself loads
in the first process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fourm_engine.data.order import Share, epoch_order
from fourm_engine.files import replacing_folder
from fourm_engine.fit.samples import ArrayData
from fourm_engine.tokenizers.network import TokenizerNetwork
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.train.task import Loss, Task

FITTED = "fitted"
EVALUATION_ARRAYS = 512  # held-out arrays for the loss curve
#: Names of the quantiser's statistics in the log, fractions of the codes in [0, 1].
LOGGED = {"usage": "share of codes used", "perplexity": "perplexity/codes"}


class TokenizerTask(Task):
    """Trains the reconstruction of `train`. `steps`: as for the trainer; quantisation starts after a fraction of
    them."""

    def __init__(
        self, tokenizer: NeuralTokenizer, train: ArrayData, val: ArrayData | None, *, steps: int, seed: int
    ) -> None:
        self.tokenizer, self.train, self.val, self.steps, self.seed = tokenizer, train, val, steps, seed
        self.name = f"tokenizer of {tokenizer.spec.name}"
        self._weights = tokenizer.weights()
        self._network = tokenizer.network  # until `model` makes the one to train
        self._logs = tuple(LOGGED[name] for name in self._network.progress() if name in LOGGED)
        self.count_names = (*self._weights, *self._logs)

    def model(self) -> TokenizerNetwork:
        self._network = self.tokenizer.starting_network()
        return self._network

    def source(self, step: int) -> tuple[NeuralTokenizer, ArrayData]:
        """The tokenizer and arrays that make the batches of a step, with the same number of arrays in every step."""
        return self.tokenizer, self.train

    def batches(self, start_step: int, share: Share) -> Iterator[Tensor]:
        n, epoch, order = len(self.train), -1, None
        step = start_step
        while True:
            tokenizer, data = self.source(step)
            for micro in range(share.accumulate):
                arrays = []
                for position in share.positions(step, micro):
                    if position // n != epoch:
                        epoch = position // n
                        order = epoch_order(n, self.seed, epoch)
                    assert order is not None
                    arrays.append(data[int(order[position % n])])
                yield tokenizer.tensor(arrays)
            step += 1

    def counts(self, batch: Tensor) -> dict[str, float]:
        used = bool(self._logs) and self._network.quantiser.counted  # before counting, the zeros are meaningless
        return self.tokenizer.counts(batch) | dict.fromkeys(self._logs, float(used))

    def tokens(self, batch: Tensor) -> int:
        return self.tokenizer.tokens(batch)

    def weights(self, counts: Mapping[str, float], step: int) -> dict[str, float]:
        return {name: weight for name, weight in self._weights.items() if counts[name] > 0}

    def loss(self, model: nn.Module, batch: Tensor, step: int) -> Loss:
        assert isinstance(model, TokenizerNetwork)
        progress = model.progress()
        return Loss(model(batch), {LOGGED[name]: progress[name].detach() for name in LOGGED if name in progress})

    def after_step(self, model: nn.Module, step: int) -> None:
        assert isinstance(model, TokenizerNetwork)
        model.after_step(step, self.steps)

    def averages_buffer(self, buffer: str) -> bool:
        return buffer.removeprefix("quantiser.") not in self.tokenizer.network.quantiser.momentary

    def after_average(self, model: nn.Module, averages: Mapping[str, Tensor]) -> None:
        assert isinstance(model, TokenizerNetwork)
        model.after_average(averages)

    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        """Loss terms on held-out arrays."""
        return self.evaluate_on(model, share, self.tokenizer, self.val)

    def evaluate_on(
        self, model: nn.Module, share: Share, tokenizer: NeuralTokenizer, val: ArrayData | None
    ) -> dict[str, tuple[float, float]]:
        if val is None or not len(val):
            return {}
        sums, counts = dict.fromkeys(self._weights, 0.0), dict.fromkeys(self._weights, 0.0)
        device = next(model.parameters()).device
        size = max(1, share.micro_batch_size)
        total = min(len(val), EVALUATION_ARRAYS)
        # Every process has the same number of batches; those beyond the end repeat the last array and do not count.
        for start in range(0, total, size * share.world):
            first = start + share.rank * size
            arrays = [val[min(i, total - 1)] for i in range(first, first + size)]
            batch = tokenizer.tensor(arrays[: max(1, total - first)])
            losses = model(batch.to(device))
            if first >= total:
                continue
            for name, value in losses.items():
                sums[name] += float(value)
            for name, count in tokenizer.counts(batch).items():
                counts[name] += count
        return {name: (sums[name], counts[name]) for name in sums}

    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        if any(name.endswith(".started") and not flag for name, flag in weights.items()):
            raise ValueError(
                f"{self.name}: its codebook was never started, since steps at the end were skipped; fit longer, "
                f"and look at what is not finite above"
            )
        self.tokenizer.adopt(weights)
        with replacing_folder(folder / FITTED) as temporary:
            self.tokenizer.save(temporary)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, TokenizerNetwork)
        return model.blocks()

    def identity(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "tokenizer.kind": self.tokenizer.kind,
            "tokenizer.settings": self.tokenizer.stored_settings(),
            "tokenizer.spec": self.tokenizer.spec.fingerprint(),
            "tokenizer.steps": self.steps,
            "data": self.train.fingerprint,
            "data.samples": len(self.train),
        }
        if start := self.tokenizer.starting_point:
            facts["tokenizer.starting_point"] = start
        return facts


def fitted_folder(run: Path) -> Path:
    """The folder in which a finished run leaves the fitted state for `Tokenizer.load`."""
    return run / FITTED

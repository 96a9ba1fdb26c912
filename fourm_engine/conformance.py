"""The engine's harness for the conformance kit: fits tokenizers and trains tiny models, in seconds on the CPU.

In: modalities with their tokenizers, maskers and arrays (`fourm_plugins.testing.Member`). Out: `EngineModel`, a model
trained by the ordinary trainer on samples drawn as in any run. Installed under the group `fourm.conformance.v1`.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm_engine.batch import collate
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.store import MemoryStore
from fourm_engine.fit.config import FitConfig
from fourm_engine.fit.fitting import fit_network
from fourm_engine.generate.input_types import Ids
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.masking.pack import pack, patchify
from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.pretrain.task import FourMTask
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.loop import Trainer
from fourm_plugins.manager import PluginManager
from fourm_plugins.masker import Masked
from fourm_plugins.testing.harness import Harness, Member, TinyModel
from fourm_plugins.tokenizer import Tokenizer

FIT = FitConfig(steps=200, batch_size=8, lr=3e-3, device="cpu", log_every=1000)
MODEL = ModelConfig.model_validate({"width": 32, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2})
BATCH = 8
#: Maximum number of tokens per sample, for inputs and for targets each.
TOKENS = 24


class EngineHarness(Harness):
    """See `fourm_plugins.testing.Harness`."""

    def fit(self, tokenizer: Tokenizer, arrays: Sequence[Any]) -> None:
        with _quiet():
            if isinstance(tokenizer, NeuralTokenizer):
                fit_network(tokenizer, list(arrays), FIT, seed=0)
            else:
                tokenizer.fit(lambda: iter(arrays))

    def train(self, members: Sequence[Member], manager: PluginManager, *, steps: int, seed: int) -> EngineModel:
        modalities = Modalities((m.modality for m in members), {m.name: m.plugin for m in members}, manager)
        tokenizers = {m.name: m.tokenizer for m in members if m.tokenizer is not None}
        data = _samples(members, modalities, seed)
        task = _Task(modalities, tokenizers, MODEL, data)
        config = TrainConfig(batch_size=BATCH, steps=steps, lr=5e-3, warmup=steps // 10, device="cpu", log_every=1)
        with tempfile.TemporaryDirectory() as run, _quiet():
            Trainer(task, config, Path(run), seed=seed).run()
            losses = _losses(Path(run) / "metrics.jsonl")
        network = Transformer(MODEL, data.vocabulary)
        network.load_state_dict(task.weights_left)
        model = FourM(network.eval(), modalities, tokenizers, data.vocabulary)
        return EngineModel(model, losses=losses, data=data)

    def load(self, folder: Path, manager: PluginManager) -> EngineModel:
        with _quiet():
            return EngineModel(FourM.from_pretrained(folder, device="cpu", manager=manager))


class EngineModel(TinyModel):
    """A `FourM`. `data`: its training data, if it was not loaded."""

    def __init__(
        self, model: FourM, *, losses: Mapping[str, Sequence[float]] | None = None, data: MaskedSamples | None = None
    ) -> None:
        self.model, self.data = model, data
        self._losses = dict(losses or {})

    @property
    def losses(self) -> Mapping[str, Sequence[float]]:
        return self._losses

    def gradients(self, name: str) -> dict[str, float]:
        data, network, entry = self.data, self.model.network, self.model.vocabulary[name]
        assert data is not None, "a loaded model has no training batch"
        masking = data.masking
        batch = collate(
            [data[i] for i in range(4 * BATCH)], data.vocabulary, masking.encoder_tokens, masking.decoder_tokens
        )
        network.zero_grad(set_to_none=True)
        torch.stack([total for total, _ in network(batch).values()]).sum().backward()
        spec, embedding = self.model.modalities[name].spec, network.embedding
        parts: dict[str, Tensor | None] = {}
        if spec.input and entry.size:
            parts["input rows"] = _rows(embedding.encoder_table.grad, entry.start, entry.stop)
        elif spec.input:
            parts["input rows"] = embedding.projections[name].weight.grad  # type: ignore[assignment]
        if spec.target:
            parts["output rows"] = _rows(network.heads.weight.grad, entry.start, entry.stop)
            if spec.layout.kind == "sequence":
                parts["decoder rows"] = _rows(embedding.decoder_table.grad, entry.start, entry.stop)
        norms = {part: 0.0 if gradient is None else float(gradient.norm()) for part, gradient in parts.items()}
        network.zero_grad(set_to_none=True)
        return norms

    @torch.inference_mode()
    def forward(
        self, masked: Mapping[str, Masked], arrays: Mapping[str, Any]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        vocabulary, network = self.model.vocabulary, self.model.network
        patches = {name: patchify(array, self.model.modalities[name].spec) for name, array in arrays.items()}
        sample = pack(vocabulary, masked, patches)
        batch = collate([sample], vocabulary, max(1, sample.encoder.shape[1]), max(1, sample.decoder.shape[1]))
        context_1ND, valid_1N = network.encode(batch.encoder, batch.continuous)
        y_MD = network.decode(batch.decoder, context_1ND, valid_1N)[0]
        mod_M, logits = batch.decoder.mod[0], {}
        for name in masked:
            if (mod_M == vocabulary[name].index).any():
                logits[name] = network.logits(y_MD[mod_M == vocabulary[name].index], name).numpy()
        return context_1ND[0].numpy(), logits

    def generate(self, target: str, given: Mapping[str, np.ndarray], *, seed: int) -> tuple[np.ndarray, Any]:
        out = self.model.generate({name: Ids(ids) for name, ids in given.items()}, [target], seed=seed)[target]
        return out.tokens, out.value

    def encode(self, name: str, array: Any) -> np.ndarray:
        return self.model.tokenizers[name].encode([array])[0]

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


def _samples(members: Sequence[Member], modalities: Modalities, seed: int) -> MaskedSamples:
    """Samples of arrays in memory, with the budgets, masks and packing of an ordinary run."""
    total = sum(m.modality.spec.layout.num_tokens for m in members)
    most = min(TOKENS, max(2, total // 2))
    budgets = Budgets(MaskingConfig(input_tokens=(1, most), target_tokens=(1, most)), modalities.specs)
    contents = {m.name: _contents(m) for m in members}
    number = len(members[0].arrays)
    store = MemoryStore({str(i): {name: content[i] for name, content in contents.items()} for i in range(number)})
    return MaskedSamples(store, budgets, {m.name: m.masker for m in members}, modalities.vocabulary(), seed=seed)


class _Task(FourMTask):
    """Keeps the weights in memory instead of writing a folder."""

    weights_left: dict[str, Tensor]

    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        self.weights_left = weights


def _contents(member: Member) -> list[np.ndarray]:
    """Ids, or patches of a continuous modality, of every sample."""
    if member.tokenizer is None:
        return [patchify(array, member.modality.spec) for array in member.arrays]
    return member.tokenizer.encode(member.arrays)


def _losses(path: Path) -> dict[str, list[float]]:
    """Modality -> nats per token in the steps with it as a target."""
    losses: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        for name, loss in json.loads(line).get("losses", {}).items():
            losses.setdefault(name, []).append(loss)
    return losses


def _rows(gradient: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if gradient is None else gradient[start:stop]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress and warnings, and restore torch's random state."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        out, err = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with torch.random.fork_rng(devices=[]), out, err:
            yield
    finally:
        logging.disable(disabled)

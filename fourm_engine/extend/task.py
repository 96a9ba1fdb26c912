"""ExtendTask: trains a model with new modalities, and evaluates gains and forgetting.

In: the trained model, all modalities, packed samples under the extension's masks, held-out samples by case. Out: a
plain exported model, `<run>/model/`, and the report, `<run>/extend.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fourm_engine import exported
from fourm_engine.data.order import Share
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.extend.report import FILE, Measured, Nats, Report, compare
from fourm_engine.extend.source import Extension
from fourm_engine.model import FourM
from fourm_engine.nn.adapt import add_lora, freeze_known
from fourm_engine.nn.flops import TrainedWeights
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.initial_weights import warm_start
from fourm_engine.pretrain.task import EXPORT, FourMTask
from fourm_engine.train.distributed import gather_json
from fourm_engine.train.task import MetaModel
from fourm_engine.weights import digest_of
from fourm_plugins.tokenizer import Tokenizer


class ExtendTask(FourMTask):
    """The 4M objective on a network that is trained in part or as a whole.

    Args:
        tokenizers: modality -> tokenizer, for all with tokens.
        data: training samples, of `extension.training`.
        cases: case -> held-out samples under its masks; see `Report`.
        steps: of the run, for the report.
        options: as of `FourMTask`."""

    name = "extension"
    evaluates_first = True

    def __init__(
        self,
        extension: Extension,
        tokenizers: Mapping[str, Tokenizer],
        data: MaskedSamples,
        cases: Mapping[str, MaskedSamples],
        *,
        steps: int,
        **options: Any,
    ) -> None:
        used = {name: tokenizers[name] for name in extension.training if name in tokenizers}
        super().__init__(extension.training, used, extension.source.network.config, data, **options)
        self.extension, self.cases, self.steps = extension, dict(cases), steps
        self.all_tokenizers = dict(tokenizers)
        self.before: Measured | None = None
        self.after: Measured | None = None
        self._digest = digest_of(extension.folder / exported.WEIGHTS)

    @property
    def pair_data(self) -> MaskedSamples:
        return self.cases["known"]

    def meta_model(self, seed: int) -> MetaModel:
        source = self.extension.source
        known = {name: tuple(p.shape) for name, p in source.network.named_parameters()}
        return warm_start(self.blank(), source.read, known, seed=seed)

    def adapt(self, network: Transformer) -> None:
        settings = self.extension.settings
        if settings.train != "all":
            freeze_known(network, self.extension.source.vocabulary)
        if settings.train == "lora":
            add_lora(network, **settings.lora.model_dump(), setting="extend.lora.matrices")

    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        """Nats per target token in every case, with the same samples and masks each time. `before` keeps the values of
        the initial weights, `after` the latest. Scores of "given new" have that prefix."""
        scores: dict[str, tuple[float, float]] = {}
        measured = {}
        for case, data in self.cases.items():
            by_modality = self._nats(model, data, share)
            for name, rows in by_modality.items():
                label = f"{name} given new" if case == "given new" else name
                total, count = scores.get(label, (0.0, 0.0))
                scores[label] = total + sum(row[1] for row in rows), count + sum(row[2] for row in rows)
            measured[case] = _joined(gather_json(by_modality))
        self.after = measured
        self.before = self.before or measured
        return scores

    def _nats(self, model: nn.Module, data: MaskedSamples, share: Share) -> dict[str, list[tuple[int, float, int]]]:
        """Modality -> (position, nats, tokens) of this process's samples, the same modalities in every process."""
        by_modality: dict[str, list[tuple[int, float, int]]] = {name: [] for name in self.count_names}
        size = share.micro_batch_size
        for start, batch in self.held_out_batches(data, share, next(model.parameters()).device):
            sample_T = batch.target_index.cpu().numpy() // data.masking.decoder_tokens
            first = 0
            for name, (nats_T, count) in model(batch, by_token=True).items():
                row_T = sample_T[first : first + count]
                first += count
                nats_B = np.bincount(row_T, nats_T.double().cpu().numpy(), size)
                tokens_B = np.bincount(row_T, minlength=size)
                for b in np.flatnonzero(tokens_B).tolist():
                    by_modality[name].append((start + b, float(nats_B[b]), int(tokens_B[b])))
        return by_modality

    def trained(self, weights: dict[str, Tensor]) -> FourM:
        extension = self.extension
        return FourM(
            self.merged(weights),
            extension.modalities,
            self.all_tokenizers,
            extension.vocabulary,
            missing=extension.source.missing,
            origin=extension.source.origin,
        )

    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        model = self.trained(weights)
        model.save_pretrained(folder / EXPORT)
        assert self.before is not None
        assert self.after is not None
        settings, missing = self.extension.settings, set(self.vocabulary.names) - set(self.modalities)
        Report(
            source=settings.source,
            add=settings.add,
            train=settings.train,
            steps=self.steps,
            trained_parameters=sum(p.numel() for p in self.blank().parameters() if p.requires_grad),
            parameters=sum(p.numel() for p in model.network.parameters()),
            rows=compare(self.before, self.after),
            not_measured=sorted(missing),
        ).save(folder / FILE)

    @cached_property
    def trained_weights(self) -> TrainedWeights | None:
        return None if self.extension.settings.train == "all" else TrainedWeights.of(self.blank())

    def identity(self) -> dict[str, Any]:
        settings = self.extension.settings
        facts: dict[str, Any] = {"extend.add": settings.add, "extend.train": settings.train}
        facts["extend.source"] = self._digest
        if settings.train == "lora":
            facts["extend.lora"] = settings.lora.model_dump(mode="json")
        return super().identity() | facts


def _joined(parts: Iterable[Mapping[str, list]]) -> dict[str, Nats]:
    """The values of all processes, ordered by position. Modalities without any token are omitted."""
    parts = list(parts)
    joined = {}
    for name in parts[0]:
        rows = sorted(tuple(row) for part in parts for row in part[name])
        if rows:
            _, nats, tokens = zip(*rows, strict=True)
            joined[name] = Nats(np.array(nats, np.float64), np.array(tokens, np.int64))
    return joined

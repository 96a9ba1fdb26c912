"""FinetuneTask: the 4M objective, training all or some of the weights of a trained model.

In: the opened source, tokenizers, packed samples. Out: the exported plain model, `<run>/model/`; with `finetune.lora`
also the adapter alone, `<run>/adapter/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fourm_engine.adapter import ADAPTER, AdapterConfig, save
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.exported import read_config
from fourm_engine.finetune.source import Source
from fourm_engine.finetune.trainable import adapt
from fourm_engine.model import FourM
from fourm_engine.nn.adapt import learned
from fourm_engine.nn.flops import TrainedWeights
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.initial_weights import warm_start
from fourm_engine.pretrain.task import EXPORT, FourMTask
from fourm_engine.train.task import MetaModel
from fourm_engine.weights import digest_of
from fourm_plugins.tokenizer import Tokenizer


class FinetuneTask(FourMTask):
    """Args: see `FourMTask`; the modalities are `source.training`, the vocabulary of the samples is `source`'s."""

    name = "finetuning"

    def __init__(
        self,
        source: Source,
        tokenizers: Mapping[str, Tokenizer],
        data: MaskedSamples,
        held_out: MaskedSamples | None = None,
        **options: Any,
    ) -> None:
        super().__init__(source.training, tokenizers, source.model_config, data, held_out, **options)
        self.source = source
        self._digest = digest_of(source.weights)

    def adapt(self, network: Transformer) -> None:
        adapt(network, self.source.settings, self.source.trained_config)

    def meta_model(self, seed: int) -> MetaModel:
        if self.source.settings.from_scratch:
            return super().meta_model(seed)
        return warm_start(self.blank(), self.source.read, self.source.shapes, seed=seed)

    def trained(self, weights: dict[str, Tensor]) -> FourM:
        return self.source.exported(self.merged(weights), self.tokenizers)

    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        super().export(weights, folder, scores)
        if (lora := self.source.settings.lora) is None:
            return
        base, model = self.source.settings.source, read_config(folder / EXPORT)
        config = AdapterConfig(base=base, digest=self._digest, scale=lora.alpha / lora.rank, model=model)
        save(folder / ADAPTER, config, learned(self.blank(), weights, self.source.shapes))

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """As in pretraining, except for weights used only by modalities outside this run, which must not decay."""
        prefix, _, rest = name.rpartition("projections.")
        if prefix:
            return rest.removesuffix(".weight") in self.modalities
        everything = set(self.vocabulary.names) == set(self.modalities)
        return super().decays(name, parameter) and (everything or name != "heads.weight")

    @cached_property
    def trained_weights(self) -> TrainedWeights | None:
        settings = self.source.settings
        return None if settings.freeze is None and settings.lora is None else TrainedWeights.of(self.blank())

    def identity(self) -> dict[str, Any]:
        return super().identity() | self.source.settings.identity(self._digest)

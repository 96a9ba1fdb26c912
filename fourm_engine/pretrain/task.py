"""FourMTask: training the any-to-any model on packed samples.

In: modalities, tokenizers, packed training and held-out samples. Out: the exported model, `<run>/model/`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourm_engine import identity
from fourm_engine.batch import Batch, PackedSample, collate
from fourm_engine.data.loader import batches, trimmed
from fourm_engine.data.order import Share
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.store import shared_facts
from fourm_engine.device import local_world
from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_engine.nn.adapt import plain_state
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.flops import TrainedWeights, forward_flops, training_flops, training_flops_of
from fourm_engine.nn.heads import SoftTarget
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.config import LossConfig
from fourm_engine.pretrain.initial_weights import materialise
from fourm_engine.pretrain.memory import memory_of, shortage
from fourm_engine.pretrain.pairs import paired
from fourm_engine.pretrain.soft_targets import soft_targets
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import rank, world_size
from fourm_engine.train.task import Loss, MetaModel, Task
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)

EXPORT = "model"
AVERAGES = f"{EXPORT}-ema"  # beside it, with `train.export: both`
#: At most this many held-out samples are used in one evaluation.
EVALUATION_SAMPLES = 512
_NO_ROWS = np.zeros((4, 0), np.int64)
NO_SAMPLE = PackedSample(_NO_ROWS, _NO_ROWS, _NO_ROWS[0], {})  # pads a batch; without inputs and targets


class FourMTask(Task):
    """The 4M objective: cross-entropy of the target tokens given the input tokens.

    Args:
        tokenizers: modality name -> fitted tokenizer.
        data, held_out: training samples, and the fixed held-out ones, or None for no evaluation.
        workers: number of processes that prepare training batches; None: chosen automatically.
        picture: writes a picture of a model's predictions to a path, for `train.pictures_every`.
    """

    name = "fourm"
    monitor = "held-out loss", False
    replays = True

    def __init__(
        self,
        modalities: Modalities,
        tokenizers: Mapping[str, Tokenizer],
        config: ModelConfig,
        data: MaskedSamples,
        held_out: MaskedSamples | None = None,
        *,
        loss: LossConfig | None = None,
        workers: int | None = 0,
        picture: Callable[[FourM, Path], None] | None = None,
    ) -> None:
        self.modalities, self.tokenizers, self.config = modalities, dict(tokenizers), config
        self.data, self.held_out, self.workers = data, held_out, workers
        loss = loss or LossConfig()
        self.average_over, self.soft_targets = loss.average_over, loss.soft_targets
        self._soft: dict[str, SoftTarget] | None = None  # on the CPU until the first step
        self.picture, self._paired, self._pair_samples = picture, dict[str, MaskedSamples](), 0
        self._compiled = False
        self.vocabulary, self.lanes = data.vocabulary, data.order.lanes
        self.sample_tokens = data.masking.sample_tokens
        self.count_names = tuple(entry.name for entry in self.vocabulary if entry.size)

    def adapt(self, network: Transformer) -> None:
        """Freeze parameters and add adapters (LoRA), in place. Here, the whole network is trained."""

    def blank(self) -> Transformer:
        """The network as it is trained, on the meta device."""
        with torch.device("meta"):
            network = Transformer(self.config, self.vocabulary)
            self.adapt(network)
        return network

    def merged(self, weights: dict[str, Tensor]) -> Transformer:
        """The plain network, without the changes of `adapt`, from a state of `model()`."""
        network = self.blank()
        network.to_empty(device="cpu").load_state_dict(weights)
        return network_of(self.config, self.vocabulary, plain_state(network))

    def model(self) -> nn.Module:
        return materialise(self.meta_model(torch.initial_seed()))

    def meta_model(self, seed: int) -> MetaModel:
        return meta_model_of(self.config, self.vocabulary, seed)

    def batches(self, start_step: int, share: Share) -> Iterator[Batch]:
        # On a CPU, time is proportional to the rows; a GPU and compiled blocks need a constant shape.
        trim = not torch.cuda.is_initialized() and not self._compiled
        return batches(self.data, share, start_step=start_step, workers=self.workers, trim=trim)

    def sample_names(self, step: int, micro: int, share: Share) -> list[str]:
        return [self.data.name(position) for position in share.positions(step, micro)]

    def tensors_of(self, batch: Batch) -> dict[str, Tensor]:
        return batch.named()

    def batch_of(self, tensors: Mapping[str, Tensor]) -> Batch:
        return Batch.from_named(tensors, self.vocabulary)

    def counts(self, batch: Batch) -> dict[str, float]:
        return {name: float(count) for name, count in batch.target_counts.items()}

    def tokens(self, batch: Batch) -> int:
        return int((batch.encoder.mod >= 0).sum() + (batch.decoder.mod >= 0).sum())

    def flops(self, batch: Batch) -> float:
        (B, N), M = batch.encoder.mod.shape, batch.decoder.mod.shape[1]
        patches = {name: len(patches.values) for name, patches in batch.continuous.items()}
        sizes: Any = {"B": B, "N": N, "M": M, "targets": batch.target_counts, "patches": patches}
        if (trained := self.trained_weights) is not None:
            return training_flops_of(trained, self.config, self.vocabulary, **sizes)
        return training_flops(forward_flops(self.config, self.vocabulary, **sizes))

    @property
    def trained_weights(self) -> TrainedWeights | None:
        """The weights that are trained; None: all."""
        return None

    def weights(self, counts: Mapping[str, float], step: int) -> dict[str, float]:
        if self.average_over == "present":
            return super().weights(counts, step)
        if self.average_over == "shares":
            held = {entry.name: entry.layout.num_tokens for entry in self.vocabulary}
            shares = {name: count / held[name] for name, count in counts.items() if count > 0}
            return {name: share / sum(shares.values()) for name, share in shares.items()}
        targets = [name for name in counts if name in self.modalities and self.modalities[name].spec.target]
        return {name: 1 / len(targets) for name in targets}

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        if self._soft is None:
            self._soft = soft_targets(self.tokenizers, self.soft_targets)
        device = batch.target_ids.device
        self._soft = {name: (ids.to(device), shares.to(device)) for name, (ids, shares) in self._soft.items()}
        return Loss({name: total for name, (total, _) in model(batch, soft=self._soft).items()})

    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        """Nats per target token of every modality, on the same held-out samples and masks each time."""
        sums = dict.fromkeys(self.count_names, (0.0, 0.0))
        if self.held_out is None:
            return {}
        for _, batch in self.held_out_batches(self.held_out, share, next(model.parameters()).device):
            for name, (loss, count) in model(batch).items():
                sums[name] = (sums[name][0] + float(loss), sums[name][1] + count)
        return sums

    def monitored(self, scores: Mapping[str, float]) -> float:
        """The mean of the modalities' held-out losses, as `fourm runs` shows it, in nats per token."""
        losses = [scores[name] for name in self.count_names if name in scores]
        return fmean(losses) if losses else math.nan

    @property
    def pair_data(self) -> MaskedSamples | None:
        """The held-out samples that `pairs` uses."""
        return self.held_out

    def check(self, config: TrainConfig) -> None:
        self._compiled = config.compile
        if config.keep_best and self.held_out is None:
            raise ValueError("train.keep_best needs held-out samples to choose by; set data.val, or leave it out")
        if config.pictures_every is not None and self.picture is None:
            raise ValueError(f"{self.name}: pictures_every, and nothing that draws them was given")
        if config.pairs_every is not None:
            if self.pair_data is None:
                raise ValueError("train.pairs_every needs held-out samples; set data.val, or leave it out")
            specs = {name: modality.spec for name, modality in self.modalities.items()}
            self._paired = paired(self.pair_data, specs, config.pairs_inputs)
            self._pair_samples = config.pairs_samples
        self._soft = soft_targets(self.tokenizers, self.soft_targets)  # takes seconds, and fails early
        if config.device == "cpu" or not torch.cuda.is_available():
            self._check_memory(config)

    def _check_memory(self, config: TrainConfig) -> None:
        """Check the memory of a run on CPUs; a GPU reports by itself that it is full."""
        data = self.data
        typical = data.budgets.typical(data.store.kinds(), data.seed)
        N, M = data.masking.encoder_tokens, data.masking.decoder_tokens
        if not self._compiled:  # see `batches`
            N, M = trimmed(typical.most_inputs, N), trimmed(typical.most_targets, M)
        parts = memory_of(
            config,
            self.blank(),
            self.vocabulary,
            N=N,
            M=M,
            targets=typical.targets,
            world=world_size(),
            bf16=config.precision == "bf16",
            on_gpu=False,
            machine=local_world(),
        )
        if (line := shortage(parts, config)) and rank() == 0:
            log.warning("%s", line)

    def pairs(self, model: nn.Module, share: Share) -> dict[tuple[str, str], tuple[float, float]]:
        """Nats per target token given one input, with the same samples and masks each time; see `paired`."""
        sums = {(given, name): (0.0, 0.0) for given in self._paired for name in self.count_names}
        device = next(model.parameters()).device
        for given, data in self._paired.items():
            for _, batch in self.held_out_batches(data, share, device, most=self._pair_samples):
                for name, (loss, count) in model(batch).items():
                    total, number = sums[given, name]
                    sums[given, name] = total + float(loss), number + count
        return sums

    def held_out_batches(
        self, data: MaskedSamples, share: Share, device: torch.device, *, most: int = EVALUATION_SAMPLES
    ) -> Iterator[tuple[int, Batch]]:
        """This process's share of the first `most` samples: (position of the first sample, batch on `device`). Every
        process gets the same number of batches; those beyond the end have no targets."""
        masking, size = data.masking, share.micro_batch_size
        total = min(len(data), most)
        for start in range(share.rank * size, total + share.rank * size, size * share.world):
            with torch.autocast(device.type, enabled=False):  # tokenizers must produce the same ids as elsewhere
                samples = data.__getitems__(range(start, min(start + size, total)))
            samples += [NO_SAMPLE] * (size - len(samples))
            batch = collate(samples, self.vocabulary, masking.encoder_tokens, masking.decoder_tokens)
            yield start, batch.to(device)

    def show(self, weights: dict[str, Tensor], path: Path, device: torch.device) -> None:
        assert self.picture is not None
        model = self.trained(weights)
        model.network.to(device)
        self.picture(model, path)

    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        self.trained(weights).save_pretrained(folder / EXPORT)

    def export_averages(self, weights: dict[str, Tensor], folder: Path) -> None:
        self.trained(weights).save_pretrained(folder / AVERAGES)

    def trained(self, weights: dict[str, Tensor]) -> FourM:
        """The model with the weights of a state of `model()`."""
        network = network_of(self.config, self.vocabulary, weights)
        return FourM(network, self.modalities, self.tokenizers, self.vocabulary)

    def identity(self) -> dict[str, Any]:
        model = {f"model.{key}": v for key, v in self.config.model_dump(mode="json").items()}
        rows = {f"vocabulary.{row['name']}": row for row in self.vocabulary.to_json()}
        tokenizers = {f"tokenizers.{name}": tokenizer.fingerprint for name, tokenizer in self.tokenizers.items()}
        modalities = [modality for _, modality in sorted(self.modalities.items())]
        return {
            **model,
            **rows,
            **tokenizers,
            **{key: value for modality in modalities for key, value in identity.facts(modality).items()},
            **{f"masker of {modality.name}": modality.spec.masker_kind for modality in modalities},
            **{f"source of {modality.name}": modality.spec.source for modality in modalities},
            "masking": self.data.masking.model_dump(mode="json"),
            "loss.average_over": self.average_over,
            "loss.soft_targets": self.soft_targets,
            "data.samples": len(self.data),
            **{f"data.{key}": value for key, value in self.data.order.identity().items()},
            **{f"data.{key}": value for key, value in self.data.store.identity().items()},
        }

    def shared_facts(self) -> dict[str, Any]:
        return shared_facts(self.data.store, None if self.pair_data is None else self.pair_data.store)

    def defaults(self) -> dict[str, Any]:
        modalities = {key: value for m in self.modalities.values() for key, value in identity.defaults(m).items()}
        return {"loss.soft_targets": {}, **modalities}

    def versions(self) -> dict[str, str]:
        return {f"plugin {name}": f"{p.distribution} {p.version}" for name, p in self.modalities.plugins.items()}

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, Transformer)
        return [*model.encoder, *model.decoder]

    def layers_above(self, name: str) -> int:
        """The layer of a parameter, counted from the top: heads, decoder blocks, encoder blocks, embeddings. Norms
        belong to the block below them."""
        part, _, rest = name.partition(".")
        encoder, decoder = self.config.encoder_blocks, self.config.decoder_blocks
        if part in ("encoder", "decoder"):
            block = int(rest.partition(".")[0])
            return decoder - block if part == "decoder" else decoder + encoder - block
        others = {"heads": 0, "decoder_norm": 1, "encoder_norm": decoder + 1, "context_proj": decoder + 1}
        return others.get(part, encoder + decoder + 1)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        # Token tables, modality vectors, learned positions and registers are embeddings; what embeds patches is not.
        of_patches = name.startswith(("embedding.projections.", "embedding.stems."))
        return of_patches or (name != "registers" and not name.startswith("embedding."))


def meta_model_of(config: ModelConfig, vocabulary: Vocabulary, seed: int) -> MetaModel:
    """The network on the meta device, and its initial weights."""
    with torch.device("meta"):
        network = Transformer(config, vocabulary)
    initial = network.initial()

    def fill(name: str, part: Tensor, first: int, total: int) -> None:
        initial[name].fill(part, name, seed=seed, first=first, total=total)

    return MetaModel(network, fill, network.init_buffers)


def network_of(config: ModelConfig, vocabulary: Vocabulary, weights: Mapping[str, Tensor]) -> Transformer:
    """The network with these weights, on the CPU, in evaluation mode."""
    with torch.device("meta"):
        network = Transformer(config, vocabulary)
    network.to_empty(device="cpu")
    network.init_buffers()
    network.load_state_dict(weights)
    return network.eval()

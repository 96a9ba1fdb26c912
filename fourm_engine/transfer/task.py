"""HeadTask: trains an encoder with a head on a task.

In: an opened source, labelled samples, an installed head. Out: `<run>/head/`, which `TaskModel` loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourm_engine import identity
from fourm_engine.data.loader import load
from fourm_engine.data.order import Share
from fourm_engine.data.store import shared_facts
from fourm_engine.data.workers import ahead
from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.modalities import Modalities
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import gather_json, sum_numbers
from fourm_engine.train.task import Loss, Task
from fourm_engine.transfer.backbone import drawn, learning, plain_weights
from fourm_engine.transfer.config import TaskConfig
from fourm_engine.transfer.network import TaskBatch, TaskNetwork, check_output, head_spec, make_head
from fourm_engine.transfer.objective import Objective
from fourm_engine.transfer.samples import TaskSample, TaskSamples
from fourm_engine.transfer.source import TaskSource
from fourm_engine.transfer.task_folder import HEAD, save
from fourm_engine.weights import digest_of, sha256_of
from fourm_plugins.head import HeadFeatures
from fourm_plugins.manager import PluginManager
from fourm_plugins.tokenizer import Tokenizer


class HeadTask(Task):
    """Args:
    source: the encoder's initial weights, and the inputs.
    settings: the parts of the encoder to freeze or adapt.
    config: the section `task`, from which the objective is made.
    target: the modality to learn, if the target is one.
    tokenizers: of the inputs that have tokens.
    data, held_out: training samples, and held-out samples or None."""

    def __init__(
        self,
        source: TaskSource,
        settings: FinetuneConfig,
        config: TaskConfig,
        objective: Objective,
        target: Modalities,
        tokenizers: Mapping[str, Tokenizer],
        data: TaskSamples,
        held_out: TaskSamples | None,
        host: PluginManager,
        *,
        workers: int | None = 0,
    ) -> None:
        self.source, self.settings, self.config, self.objective = source, settings, config, objective
        self.tokenizers, self.data, self.held_out, self.workers = dict(tokenizers), data, held_out, workers
        self.target, self.host, self.inputs = target, host, source.inputs
        self.spec = head_spec(source.model.width, self.inputs, objective, source.training)
        self.count_names, self.lanes = (objective.loss_name,), data.order.lanes
        self.name, self.monitor = objective.kind, objective.monitor
        self._digest = digest_of(source.file)

    def head(self) -> nn.Module:
        """What stands on the encoder."""
        return self.objective.head(self._head, self.inputs)

    def _head(self) -> nn.Module:
        return make_head(self.config.head, self.config.head_options, self.spec, self.host)

    def model(self) -> nn.Module:
        weights = drawn(self.source.model, self.inputs) if self.settings.from_scratch else self.source.read()
        backbone = learning(self.source.model, self.inputs, self.settings, weights)
        network = TaskNetwork(backbone, self.inputs, self.head(), self.spec)
        network.set_drop_path(self.config.drop_path)
        return network

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        self.objective.check(config)
        if self.held_out is None and config.keep_best:
            raise ValueError("train.keep_best needs held-out samples to choose by; set data.val, or leave it out")
        frozen = self.settings.freeze is not None and "*" in self.settings.freeze
        if frozen and self.settings.lora is None and self.config.drop_path:
            raise ValueError("task.drop_path is for an encoder that learns, and finetune.freeze names all of it")
        if self.held_out is not None:
            self.held_out.objective.metrics()  # fails early if a package is missing
        head, spec, n = self._head(), self.spec, 2
        maps = {name: torch.zeros(n, spec.width, *grid) for name, grid in spec.grids.items()}
        pixels = {name: torch.zeros(n, *size) for name, size in spec.pixels.items()}
        features = HeadFeatures(torch.zeros(n, 1, spec.width), torch.ones(n, 1, dtype=torch.bool), maps, pixels)
        with torch.no_grad():
            check_output(head.eval()(features), spec, n, self.config.head)

    def batches(self, start_step: int, share: Share) -> Iterator[TaskBatch]:
        return load(self.data, share, partial(_collated, self.data), start_step=start_step, workers=self.workers)

    def counts(self, batch: TaskBatch) -> dict[str, float]:
        return {self.objective.loss_name: float(batch.count)}

    def tokens(self, batch: TaskBatch) -> int:
        return int((batch.tokens.mod >= 0).sum())

    def loss(self, model: nn.Module, batch: TaskBatch, step: int) -> Loss:
        return Loss({self.objective.loss_name: self.objective.loss(model(batch), batch.targets)})

    def sample_names(self, step: int, micro: int, share: Share) -> list[str]:
        return [self.data.name(position) for position in share.positions(step, micro)]

    def evaluate(self, model: nn.Module, share: Share) -> dict[str, tuple[float, float]]:
        """Metrics over all held-out samples, each through its centre crop."""
        if self.held_out is None:
            return {}
        device, metrics = next(model.parameters()).device, self.objective.metrics()
        size, total, used = max(1, share.micro_batch_size), len(self.held_out), 0.0
        # All processes run the same number of batches.
        starts = range(share.rank * size, total + share.rank * size, size * share.world)
        parts = [range(min(start, total), min(start + size, total)) for start in starts]
        samples = ahead(_HeldOut(self.held_out), [i for part in parts for i in part], workers=self.workers or 0)
        for part in parts:
            read = [one for alternatives in islice(samples, len(part)) for one in alternatives]
            rounds = gather_json(-(-len(read) // size)) if self.objective.alternatives else [1]
            for start in range(0, max(1, *rounds) * size, size):
                some = read[start : start + size]
                batch = (self.held_out.collated(some) if some else self.held_out.empty()).to(device)
                output = model(batch)
                if some:
                    metrics.update(output, batch.targets, [sample.truth for sample in some])
                    used += len(some)
        if not sum_numbers([used])[0]:
            raise ValueError(f"{self.held_out.data.root}: no held-out sample can be used; see the warnings")
        return {name: (score, 1.0) for name, score in metrics.compute().items()}

    def export(self, weights: dict[str, Tensor], folder: Path, scores: dict[str, float]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "head": {}}
        for name, tensor in weights.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        config = self.source.model
        backbone = plain_weights(config, self.inputs, self.settings, parts["backbone"])
        save(
            folder / HEAD,
            backbone,
            parts["head"],
            config=config,
            task=self.config,
            objective=self.objective,
            inputs=self.source.training,
            target=self.target,
            tokenizers=self.tokenizers,
            vocabulary=self.inputs,
            host=self.host,
            scores=scores,
        )

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, TaskNetwork)
        return model.blocks()

    def layers_above(self, name: str) -> int:
        """The layer of a parameter, counted from the top: head, encoder blocks, embeddings. The last norm belongs to
        the last block."""
        blocks = self.source.model.encoder_blocks
        part, _, rest = name.partition(".")
        if part == "head":
            return 0
        part, _, rest = rest.partition(".")
        if part == "encoder":
            return blocks - int(rest.partition(".")[0])
        return 1 if part == "encoder_norm" else blocks + 1

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        of_patches = name.startswith(("backbone.embedding.projections.", "backbone.embedding.stems."))
        return of_patches or (name != "backbone.registers" and not name.startswith("backbone.embedding."))

    def identity(self) -> dict[str, Any]:
        facts = self.settings.identity(self._digest)
        facts |= {f"tokenizers.{name}": tokenizer.fingerprint for name, tokenizer in self.tokenizers.items()}
        for modality in self.source.training.values():
            facts |= identity.facts(modality)
        return facts | self.objective.identity() | {f"data.{k}": v for k, v in self.data.identity().items()}

    def shared_facts(self) -> dict[str, Any]:
        files = {f"task.{key}": getattr(self.config, key, None) for key in ("labels", "val_labels")}
        labels = {key: sha256_of(path) for key, path in files.items() if isinstance(path, Path)}
        return labels | shared_facts(self.data.store, None if self.held_out is None else self.held_out.store)

    def versions(self) -> dict[str, str]:
        plugin = self.host.find("head", self.config.head)
        modalities = {**self.source.training.plugins, **self.target.plugins}
        used = {f"plugin {name}": p for name, p in modalities.items()} | {f"head {plugin.name}": plugin}
        return {name: f"{p.distribution} {p.version}" for name, p in used.items()}


class _HeldOut:
    """Held-out samples by index, for a loader's workers."""

    def __init__(self, samples: TaskSamples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> list[TaskSample]:
        return self.samples.held_out(index)


def _collated(data: TaskSamples, samples: list[TaskSample] | Exception) -> TaskBatch | Exception:
    return samples if isinstance(samples, Exception) else data.collated(samples)

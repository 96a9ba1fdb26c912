"""Implements `fourm train --dry-run`: estimates a run before hours are spent on it.

In: a run's config; neither tokenizers nor data need exist. Out: the vocabulary, parameters, data, tokens and FLOPs per
step, memory by part, hours. Writes nothing; the model takes no memory (torch's meta device).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.sets import data_sets
from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.device import rank_and_world, settle_threads
from fourm_engine.evaluate.tasks import task_notes
from fourm_engine.finetune.source import check_known, check_shape, describe
from fourm_engine.finetune.trainable import adapt
from fourm_engine.masking.budgets import Budgets
from fourm_engine.modalities import Modalities, load_manager, load_modalities
from fourm_engine.nn.flops import TrainedWeights, forward_flops, training_flops_of
from fourm_engine.nn.transformer import Transformer
from fourm_engine.pretrain.memory import memory_of
from fourm_engine.pretrain.soft_targets import check_names
from fourm_engine.recipes.check_tokens import check_tokens_exist
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.dry_run_report import DryRun
from fourm_engine.train.disk_space import checkpoint_bytes
from fourm_engine.train.utilisation import memory as memory_taken
from fourm_engine.train.utilisation import named_peak, peak
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager

NONE_HERE = "data found: none here"
#: Bytes that the first step on a CPU adds to the program: imports of torch's optimisers, and the minimum growth of the
#: heap (`device.keep_memory`).
FIRST_STEP = (75 + 64) << 20


def dry_run(config: RunConfig, *, mfu: float = 0.4, gpu: str = "", processes: int | None = None) -> DryRun:
    """Estimate what training with `config` would take.

    Args:
        mfu: assumed model FLOPs utilisation, a fraction of the devices' peak.
        gpu: name of a known GPU; "" for this machine's device, whose peak is measured if unknown.
        processes: number of devices; None: as many as torchrun started, or one.

    Raises ValueError for problems that a user can fix: a plugin, the config, an unknown GPU."""
    if not 0 < mfu <= 1:
        raise ValueError(f"--mfu {mfu}: must be a fraction of the peak, above 0 and at most 1")
    world = processes or rank_and_world()[1]
    if config.train.batch_size % (world * config.train.accumulate):
        raise ValueError(
            f"train.batch_size={config.train.batch_size} does not divide over {world} processes x "
            f"accumulate={config.train.accumulate}; make it a multiple of {world * config.train.accumulate}"
        )
    if config.extend is not None:
        raise ValueError("--dry-run is for `fourm train` of a new model; this config extends a trained one")
    manager = load_manager(config.modalities)
    modalities, here = _modalities(config, manager)
    with_tokens = [name for name, modality in modalities.items() if modality.spec.token_space is not None]
    check_names(config.loss.soft_targets, with_tokens)
    network, vocabulary = _network(config, modalities, manager)
    data, kinds = _data(config, modalities) if here else ([NONE_HERE], Counter[frozenset[str]]())
    data += task_notes(config.evaluate.tasks, modalities) if here else []
    budgets = Budgets(config.masking, (modality.spec for modality in modalities.values()))
    config = config.model_copy(update={"masking": budgets.config})
    typical = budgets.typical(kinds or Counter({frozenset(modalities): 1}), config.seed)
    inputs, targets = typical.inputs, typical.targets
    B, N, M = config.train.batch_size, config.masking.encoder_tokens, config.masking.decoder_tokens
    patches = {e.name: B * inputs.get(e.name, 0.0) for e in vocabulary if e.patch_dim}
    of_batch = {name: B * count for name, count in sorted(targets.items())}
    sizes: Any = {"B": B, "N": N, "M": M, "targets": of_batch, "patches": patches}
    flops = forward_flops(config.model, vocabulary, **sizes)
    device = torch.device("cuda" if config.train.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":  # as the run
        settle_threads(config.train.threads, width=config.model.width)
    on_gpu = bool(gpu) or device.type == "cuda"
    bf16 = config.train.precision == "bf16" or (config.train.precision == "auto" and on_gpu)
    known = named_peak(gpu, bf16=bf16) if gpu else peak(device, bf16=bf16)
    if known is None:
        raise ValueError(f"--gpu {gpu}: its peak is not known; leave it out, or name H100, A100, L4, …")
    memory = memory_of(
        config.train, network, vocabulary, N=N, M=M, targets=targets, world=world, bf16=bf16, on_gpu=on_gpu
    )
    if not on_gpu:
        memory["program"] = memory_taken(device) * 2**30 + FIRST_STEP  # Python, torch, and what the plugins import
    return DryRun(
        vocabulary,
        _parameters(network),
        sum(p.numel() for p in network.parameters() if p.requires_grad),
        data,
        (sum(inputs.values()), sum(targets.values())),
        of_batch,
        flops,
        training_flops_of(TrainedWeights.of(network), config.model, vocabulary, **sizes),
        memory,
        checkpoint_bytes(config.train, network),
        config.train.plan(config.masking.sample_tokens),
        config.train,
        world,
        sum(kinds.values()),
        config.masking.sample_tokens,
        mfu,
        known,
        _refused(config, modalities) if here else "",
    )


def _network(config: RunConfig, modalities: Modalities, manager: PluginManager) -> tuple[Transformer, Vocabulary]:
    """The network that would be trained, on the meta device."""
    if (settings := config.finetune) is None:
        vocabulary = modalities.vocabulary()
        with torch.device("meta"):
            return Transformer(config.model, vocabulary), vocabulary
    described = describe(settings.source, manager)
    check_known(settings.source, described.settings, modalities)
    check_shape(settings.source, described.model, config.model)
    vocabulary = described.vocabulary.resized(modalities.specs)
    with torch.device("meta"):
        network = Transformer(config.model, vocabulary)
        adapt(network, settings, described.model)
    return network, vocabulary


def _modalities(config: RunConfig, manager: PluginManager) -> tuple[Modalities, bool]:
    """(modalities, whether their data exists here). Without data, these are all selected modalities."""
    parts = [config.data.of(entry) for entry in config.data.sets] or [config.data]
    if not any(isinstance(path, Path) and path.is_dir() for part in parts for path in (part.folder, part.tokens)):
        return load_modalities(config.modalities, manager), False
    return config.load_modalities(manager), True


def _data(config: RunConfig, modalities: Modalities) -> tuple[list[str], Counter[frozenset[str]]]:
    """Lines about the existing samples, and the number of training samples per set of modalities."""
    lines, kinds = [], Counter[frozenset[str]]()
    for one in data_sets(config.data, modalities):
        folder, tokens = one.config.folder, one.config.tokens
        with one.named():
            if isinstance(folder, Path) and folder.is_dir():
                raw = AlignedData.from_config(one.modalities, one.config, training=True)
                kinds += raw.kinds()
                lines.append(_counted(f"data found: {raw.describe()}", raw.counts))
            elif isinstance(tokens, Path) and (tokens / "train").is_dir():
                index = open_index(tokens / "train", write=False)
                have = Counter[frozenset[str]]()
                for names, number in index.count_kinds().items():
                    have[names & modalities.keys()] += number
                kinds += have
                counts = Counter[str]()
                for names, number in have.items():
                    counts.update(dict.fromkeys(names, number))
                lines.append(_counted(f"data found: {counted(len(index), 'sample')} as tokens in {tokens}", counts))
            else:
                lines.append(f"data found: {one.key}: none here ({folder if folder is not None else tokens})")
    return lines, kinds


def _refused(config: RunConfig, modalities: Modalities) -> str:
    """The error that training would raise for missing tokens. Not an error here, as they may not be made yet."""
    try:
        check_tokens_exist(config, modalities)
    except ValueError as error:
        return str(error)
    return ""


def _counted(line: str, counts: Mapping[str, int]) -> str:
    return "  ".join([line, *(f"{name} {count:,}" for name, count in sorted(counts.items()))])


def _parameters(network: Transformer) -> dict[str, int]:
    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    return {
        "encoder": count(network.encoder, network.encoder_norm),
        "decoder": count(network.decoder, network.decoder_norm, network.context_proj),
        "embeddings": count(network.embedding),
        "output rows": count(network.heads),
        **({} if network.registers is None else {"registers": network.registers.numel()}),
    }

"""Implements `fourm finetune --dry-run`: estimates a task's training before hours are spent on it.

In: a task's config; the model and the data must exist. Out: the head, trainable and frozen parameters, the data, tokens
and FLOPs per step. Nothing is written, and the network takes no memory (torch's meta device).
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fourm_engine.finetune.trainable import adapt
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.finetune_task import modalities_of, task_of
from fourm_engine.recipes.progress import PrintFn, print_line
from fourm_engine.recipes.task_config import TaskRunConfig
from fourm_engine.train.console import si, wrap
from fourm_engine.transfer.backbone import encoder_alone
from fourm_engine.transfer.network import TaskBatch, TaskNetwork
from fourm_engine.transfer.source import open_source
from fourm_engine.transfer.task import HeadTask
from fourm_plugins.counting import counted


def dry_run(config: TaskRunConfig, *, print_fn: PrintFn = print_line) -> None:
    """Report what `finetune` would train. Raises the same ValueErrors as it does before training."""
    manager = load_manager(config.modalities)
    inputs, target = modalities_of(config, manager)
    source = open_source(config.finetune.source, inputs, manager)
    data = list[str]()
    task = task_of(config, source, target, manager, data.append)
    task.check(config.train)
    network, objective = _network(task), task.objective
    lines = wrap(
        [f"task: {objective.kind} of {', '.join(inputs)}: {objective.describe()}", f"head: {config.task.head}"]
    )
    for part, module in (("encoder", network.backbone), ("head", network.head)):
        total = sum(p.numel() for p in module.parameters())
        learns = sum(p.numel() for p in module.parameters() if p.requires_grad)
        numbers = [si(number).strip() for number in (total, learns, total - learns)]
        lines += wrap(["{}: {} parameters, {} learn, {} are frozen".format(part, *numbers)])
    lines += [f"{part}: {line}" for part, line in zip(("training", "held out"), data)]
    size, plan = config.train.batch_size, config.train.plan()
    sample = task.data.collated([task.data[0]])
    lines += wrap(
        [
            f"a step: {counted(size, 'sample')}",
            f"{si(size * task.tokens(sample)).strip()} tokens",
            f"{si(size * _flops(network, sample))}FLOP, forward and backward",
        ]
    )
    epochs = plan.steps * size / len(task.data)
    lines += wrap([f"{counted(plan.steps, 'step')}: {epochs:.3g} times all training samples"])
    for line in lines:
        print_fn(line)


def _network(task: HeadTask) -> TaskNetwork:
    """The model that would be trained, on the meta device."""
    backbone = encoder_alone(task.source.model, task.inputs)
    with torch.device("meta"):
        adapt(backbone, task.settings, task.source.model)
        return TaskNetwork(backbone, task.inputs, task.head(), task.spec)


def _flops(network: TaskNetwork, sample: TaskBatch) -> float:
    """FLOPs of the matrix products and convolutions of one sample, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        network(sample.to("meta")).sum().backward()
    return float(counter.get_total_flops())

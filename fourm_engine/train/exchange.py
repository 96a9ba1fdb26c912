"""Host-side reductions over the processes of a run: counts of a step, and held-out measures.

In: micro-batches, or a task's measures. Out: sums and means over all processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from fourm_engine.data.order import Share
from fourm_engine.train.distributed import sum_numbers
from fourm_engine.train.learner import Learner
from fourm_engine.train.stopping import STOPS
from fourm_engine.train.task import Task, means

K = TypeVar("K")
#: A task's measures of a model on its share of the samples: name -> (sum, count).
Measure = Callable[[nn.Module, Share], dict[K, tuple[float, float]]]


def reduce_counts(
    task: Task, micro_batches: list[Any], stop: dict[str, int]
) -> tuple[dict[str, float], tuple[float, float], list[int]]:
    """Reduce over all processes, in one call: the counts of a step, (tokens, FLOPs), and the stop signals received by
    any process."""
    counts = dict.fromkeys(task.count_names, 0.0)
    for batch in micro_batches:
        for name, count in task.counts(batch).items():
            counts[name] += count
    tokens = float(sum(task.tokens(batch) for batch in micro_batches))
    flops = sum(task.flops(batch) for batch in micro_batches)
    flags = [float(stop["signal"] == number) for number in STOPS]
    tokens, flops, *numbers = sum_numbers([tokens, flops, *flags, *counts.values()])
    signals = [int(number) for number, flag in zip(STOPS, numbers, strict=False) if flag]
    numbers = numbers[len(STOPS) :]
    return dict(zip(counts, numbers, strict=True)), (tokens, flops), signals


def evaluate(measure: Measure[K], learner: Learner, share: Share, seed: int, *, averaged: bool) -> dict[K, float]:
    """A task's held-out measures, averaged over all processes, with the weights or their averages."""
    learner.model.eval()
    torch.manual_seed(seed)
    with torch.no_grad(), learner.weights(averaged=averaged), learner.autocast():
        measures = measure(learner.model, share)
    learner.model.train()
    numbers = sum_numbers([number for pair in measures.values() for number in pair])
    return means(dict(zip(measures, numbers[0::2], strict=True)), dict(zip(measures, numbers[1::2], strict=True)))

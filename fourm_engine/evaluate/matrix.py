"""The any-to-any matrix: how much each input tells the model about each target, in held-out nats per token.

In: a model, held-out samples. Out: `Matrix`. A sample's entry is the mean over the target's tokens of -log p(token |
input shown in full); a cell is the mean over samples. The effect of an input is the difference, sample by
sample, to the target given nothing, so that easy and hard samples cancel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.likelihood import nats_by_sample
from fourm_engine.evaluate.results import NOTHING, Cell, Matrix
from fourm_engine.evaluate.samples import Samples
from fourm_engine.model import FourM


def measure_matrix(
    model: FourM, held_out: Samples, ids: Callable[[str], Mapping[str, np.ndarray]], config: EvaluateConfig
) -> Matrix:
    """Every modality that may be input (continuous ones too) to every one that may be target, on the first
    `config.matrix_samples` samples. `ids`: token modality -> sample -> ids."""
    began = time.perf_counter()
    specs = {name: modality.spec for name, modality in model.modalities.items()}
    inputs = [name for name, spec in specs.items() if spec.input]
    targets = [name for name, spec in specs.items() if spec.target]
    # A sample's truths and inputs in the form the likelihood takes: ids, or the array of a continuous modality.
    content = {name: held_out.arrays[name] if specs[name].continuous else ids(name) for name in specs}
    names = held_out.names[: config.matrix_samples]
    samples = {s: {name: by_sample_of[s] for name, by_sample_of in content.items() if s in by_sample_of} for s in names}

    nats: dict[str, dict[str, dict[str, float]]] = {}  # input -> target -> sample -> nats per token
    for given in (NOTHING, *inputs):
        have = [s for s in names if given == NOTHING or given in samples[s]]
        shown = [] if given == NOTHING else [given]
        others = [target for target in targets if target != given]
        measured = nats_by_sample(model, [samples[s] for s in have], shown, others, batch_size=config.batch_size)
        nats[given] = {
            target: {s: total / n for s, total, n in zip(have, totals, tokens, strict=True) if n}
            for target, (totals, tokens) in measured.items()
        }
    cells: dict[str, dict[str, Cell]] = {given: {} for given in nats}
    for given, row in nats.items():
        for target, by_sample in row.items():
            if by_sample:
                with_input = np.array(list(by_sample.values()))
                without = np.array([nats[NOTHING][target][s] for s in by_sample])
                cells[given][target] = Cell(*_mean(with_input), *_mean(with_input - without), len(with_input))
    return Matrix(list(nats), targets, cells, time.perf_counter() - began)


def _mean(x: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error, which is unknown for a single sample."""
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")

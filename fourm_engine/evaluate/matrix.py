"""The any-to-any matrix: how much each input helps to predict each target, in held-out nats per token.

In: a model, held-out samples. Out: `Matrix`. A sample's entry is the mean of -log p(token | whole input) over the
target's tokens, and a cell is the mean over samples. The effect of an input is the per-sample difference to the target
given nothing, so that easy and hard samples cancel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from fourm_engine.batch import Tokens
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.results import NOTHING, Cell, Matrix
from fourm_engine.evaluate.samples import Samples
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.model import FourM


def measure_matrix(
    model: FourM, held_out: Samples, ids: Callable[[str], Mapping[str, np.ndarray]], config: EvaluateConfig
) -> Matrix:
    """The matrix of all inputs (continuous ones included) and all targets, on the first `config.matrix_samples`
    samples. `ids`: token modality -> sample -> ids."""
    began = time.perf_counter()
    specs = {name: modality.spec for name, modality in model.modalities.items()}
    inputs = [name for name, spec in specs.items() if spec.input]
    targets = [name for name, spec in specs.items() if spec.target]
    # Arguments of `nats_by_sample`: ids, or the array of a continuous modality.
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
    """Mean and standard error, which is unknown for a single sample."""
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")


@torch.inference_mode()
def nats_by_sample(
    model: FourM,
    samples: Sequence[Mapping[str, np.ndarray]],
    inputs: Sequence[str],
    targets: Sequence[str],
    *,
    batch_size: int = 32,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Nats of each of `targets` given all tokens of `inputs` (possibly none), which are encoded once.

    A grid or vector is predicted as a whole in one parallel step; a sequence, its end marker included, token by token
    with the true ones before it (teacher forcing). Ids are int64 (n,) without an end marker; arrays are `spec.array`.

    Returns target -> (float64 (B,) nats, int64 (B,) tokens); both are 0 for a sample without the target.
    Raises ValueError if a target is among the inputs or cannot be predicted, or if a sample lacks an input."""
    if both := sorted(set(inputs) & set(targets)):
        raise ValueError(f"{both[0]!r} is both input and target; drop it from the inputs")
    scores = {target: (np.zeros(len(samples)), np.zeros(len(samples), np.int64)) for target in targets}
    model.network.eval()
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        for name in inputs:
            if lacking := [i for i, sample in enumerate(part, start) if name not in sample]:
                raise ValueError(f"sample {lacking[0]} lacks {name!r}; leave it out")
        rows = [{name: _shown(model, name, sample[name]) for name in inputs} for sample in part]
        capacity = max(sum(map(len, row.values())) for row in rows)
        context, valid = model.network.encode(*pack_inputs(rows, model.vocabulary, capacity, model.device))
        for target in targets:
            labels = [_shown(model, target, s[target]).ids if target in s else _NONE for s in part]
            counts = np.array([len(row) for row in labels])
            if not counts.any():
                continue
            masked = _decoder_tokens(model, labels, target).to(model.device)
            y_TD = model.network.decode(masked, context, valid)[masked.mod >= 0]
            ids_T = torch.from_numpy(np.concatenate(labels)).to(model.device)
            nats_T = F.cross_entropy(model.network.logits(y_TD, target).float(), ids_T, reduction="none")
            nats, tokens = scores[target]
            sample_T = np.repeat(np.arange(len(part)), counts)
            nats[start : start + len(part)] = np.bincount(sample_T, nats_T.cpu().double().numpy(), len(part))
            tokens[start : start + len(part)] = counts
    return scores


_NONE = np.zeros(0, np.int64)


def _shown(model: FourM, name: str, value: np.ndarray) -> Shown:
    spec = model.modalities[name].spec
    if spec.continuous:
        return Shown.continuous(spec, value)
    return model.reader.closed(name, value) if spec.layout.kind == "sequence" else Shown.tokens(value)


def _decoder_tokens(model: FourM, labels: list[np.ndarray], target: str) -> Tokens:
    """The decoder's rows, (B, longest): mask tokens, or the sequence behind its first sentinel, shifted by one."""
    entry = model.vocabulary[target]
    sequence = entry.layout.kind == "sequence"
    shape = len(labels), max(map(len, labels))
    ids, mod = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    for b, row in enumerate(labels):
        mod[b, : len(row)] = entry.index
        if sequence and len(row):
            ids[b, : len(row)] = entry.start + np.append(model.sampler.sequences[target].start, row[:-1])
    rank = np.broadcast_to(np.arange(shape[1]), shape).copy()
    order = rank if sequence else np.zeros(shape, np.int64)
    return Tokens(*(torch.from_numpy(x) for x in (ids, rank, mod, order)))

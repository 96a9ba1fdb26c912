"""How well a model predicts the tokens of one modality from those of others, in nats: entries of the any-to-any matrix.

In: samples as {modality: token ids, or the array of a continuous modality}. Out: the sum of the cross-entropies and the
number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from fourm_engine.batch import Tokens
from fourm_engine.masking.pack import Shown, pack_inputs

if TYPE_CHECKING:
    from fourm_engine.model import FourM


@torch.inference_mode()
def nats_by_sample(
    model: FourM,
    samples: Sequence[Mapping[str, np.ndarray]],
    inputs: Sequence[str],
    targets: Sequence[str],
    *,
    batch_size: int = 32,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Nats of each of `targets` given all tokens of `inputs` (possibly none), from one encoding of these.

    A grid or vector is predicted as a whole in one parallel step; a sequence, its end marker included, token by token
    with the true ones before it (teacher forcing). Ids are int64 (n,) without an end marker; arrays are `spec.array`.

    Returns target -> (float64 (B,) nats, int64 (B,) tokens); both are 0 for a sample without the target.
    Raises ValueError: a target is among the inputs or cannot be predicted, or a sample lacks an input."""
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
            rows_BM = _asked(model, labels, target).to(model.device)
            y_TD = model.network.decode(rows_BM, context, valid)[rows_BM.mod >= 0]
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


def _asked(model: FourM, labels: list[np.ndarray], target: str) -> Tokens:
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

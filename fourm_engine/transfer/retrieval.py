"""Retrieval: embeddings by which each side of a sample (a picture, its caption) finds the others among many samples.

In: samples with inputs of two sides or more. Out: a contrastive loss between each two sides (CLIP, arXiv 2103.00020,
section 2.3), recall among all held-out samples, and the embedding of one side. Samples that show the same on either
side (the same caption twice) are all right answers. Training sees one alternative of a side at a time, recall all (the
five captions of a picture).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import SampleViews
from fourm_engine.masking.pack import Shown
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import gather_json, gather_rows
from fourm_engine.transfer.answers import Embedding
from fourm_engine.transfer.config import RetrievalConfig
from fourm_engine.transfer.objective import Metrics, Objective, Target
from fourm_engine.transfer.towers import Towers
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.counting import counted

log = logging.getLogger(__name__)
RECALL_AT = (1, 5, 10)
#: Queries compared with all candidates at a time.
_BLOCK = 256


class Retrieval(Objective):
    kind = "retrieval"
    loss_name = "contrastive"
    monitor = (f"recall@{RECALL_AT[0]}", True)
    needs = "two sides of {} (a sample is told from others, so two samples are needed)"
    fewest = 2
    alternatives = True

    def __init__(self, config: RetrievalConfig) -> None:
        self.config, self.outputs = config, config.width
        self.names = ["+".join(side) for side in config.between]
        #: (query, other): the number of each side with that of each other.
        self.pairs = list(permutations(range(len(self.names)), 2))

    def describe(self) -> str:
        return f"embeddings of {counted(self.outputs, 'number')}"

    def groups(self, names: Collection[str]) -> list[list[str]]:
        return [[name for name in side if name in names] for side in self.config.between]

    def head(self, make: Callable[[], nn.Module], inputs: Vocabulary) -> nn.Module:
        sides = [[inputs[name].index for name in side] for side in self.config.between]
        return Towers([make() for _ in sides], sides, self.config.temperature)

    def check(self, config: TrainConfig) -> None:
        if config.batch_size // config.accumulate < 2:
            raise ValueError(
                "train.batch_size: a sample is compared with the others of its batch, for train.accumulate > 1 of its "
                "part, and there is none; set a larger batch, or accumulate less"
            )

    def check_inputs(self, names: Collection[str]) -> None:
        if sum(map(bool, self.groups(names))) > 1:
            raise ValueError(f"{', '.join(names)}: of more than one side; give inputs of {' or '.join(self.names)}")

    def has_target(self, data: AlignedData, row: int) -> bool:
        return sum(map(bool, self.groups(data.has_at(row)))) > 1

    def target(
        self, data: AlignedData, name: str, views: SampleViews, number: int, shown: Mapping[str, Shown]
    ) -> tuple[Target, None]:
        """`content`: int64 (sides,), a digest of what each side shows, 0 for a side that is missing."""
        target = self.alternative(shown)
        if np.count_nonzero(target["content"]) < 2:
            one = next(iter(shown))
            raise BadFile(data.where(name, one), one, "no other side of this sample can be read")
        return target, None

    def alternative(self, shown: Mapping[str, Shown]) -> Target:
        return {"content": np.array([_digest([shown[part] for part in group]) for group in self.groups(shown)])}

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Queries: each side of a sample, once for each of its other sides."""
        if "content" not in targets:
            return 0
        sides = (targets["content"] != 0).sum(1)
        return int((sides * (sides - 1)).sum())

    def loss(self, output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropies of the candidates of the micro-batch in all processes."""
        content = targets["content"]
        rows_BSD = output.float().unflatten(0, (content.shape[1], -1)).transpose(0, 1)  # S sides
        all_rows, all_content = gather_rows(rows_BSD), gather_rows(content)
        total = rows_BSD.new_zeros(())
        for query, other in self.pairs:
            has_both = (content[:, query] != 0) & (content[:, other] != 0)
            with torch.autocast(output.device.type, enabled=False):  # bf16 would round logits near 100 to halves
                logits = rows_BSD[:, query] @ all_rows[:, other].T
            logits = logits.masked_fill(all_content[:, other] == 0, torch.finfo(logits.dtype).min)
            right = _same(content, all_content, query, other).float()
            right = right / right.sum(1, keepdim=True).clamp(min=1)
            total = total + torch.where(has_both, F.cross_entropy(logits, right, reduction="none"), 0.0).sum()
        return total

    def metrics(self) -> Metrics:
        return _Recall(self)

    def answer(self, output: Tensor) -> Embedding:
        """The embedding from one sample's output (width,)."""
        return Embedding(F.normalize(output.float(), dim=0).numpy())

    def identity(self) -> dict[str, Any]:
        return {f"task.{key}": value for key, value in self.config.model_dump(mode="json").items()}


class _Recall(Metrics):
    """Recall among all held-out samples, for each side as the query of each other, and the mean over these. Each
    alternative of a side is a query and a candidate. An answer as near as a wrong one counts as behind it. A query that
    every candidate answers does not count."""

    def __init__(self, task: Retrieval) -> None:
        self.task = task
        self._embeddings, self._contents = list[Tensor](), list[Tensor]()

    def update(self, output: Tensor, targets: Mapping[str, Tensor], truths: Sequence[Any]) -> None:
        content = targets["content"]
        self._embeddings.append(output.float().unflatten(0, (content.shape[1], -1)).transpose(0, 1).cpu())
        self._contents.append(content.cpu())

    def compute(self) -> dict[str, float]:
        S, names = len(self.task.names), self.task.names
        embeddings = _of_all(torch.cat([torch.zeros(0, S, self.task.outputs), *self._embeddings]))
        content = _of_all(torch.cat([torch.zeros(0, S, dtype=torch.int64), *self._contents]))
        # Of a sample, the first row alone has several sides.
        sample = ((content != 0).sum(1) > 1).cumsum(0) - 1
        sides = [_Side.of(embeddings[:, side], content[:, side], sample) for side in range(S)]
        ranks = [_ranks(sides[query], sides[other]) for query, other in self.task.pairs]
        recall = [[float((ranks_of < k).double().mean()) for k in RECALL_AT] for ranks_of in ranks]
        if not any(map(len, ranks)):
            log.warning("recall cannot be measured: held-out samples show the same, so that all are right answers")
            means = np.full(len(RECALL_AT), np.nan)
        else:
            means = np.nanmean(recall, axis=0)  # NaN of two sides of which there is nothing to find
        of_pairs = {
            f"{names[query]} → {names[other]} recall@{RECALL_AT[0]}": first
            for (query, other), (first, *_) in zip(self.task.pairs, recall, strict=True)
        }
        return {f"recall@{k}": float(mean) for k, mean in zip(RECALL_AT, means, strict=True)} | of_pairs


def _of_all(rows: Tensor) -> Tensor:
    """The rows of all processes, on the CPU."""
    counts = gather_json(len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = gather_rows(padded).split(max(1, max(counts)))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


@dataclass(frozen=True, eq=False)
class _Side:
    """What the samples show on one side: n rows of `embeddings` (n, width), `content` (n,), and the number of the
    `sample` (n,). `shown`: (samples, most alternatives), the content of each sample, 0 where there is none."""

    embeddings: Tensor
    content: Tensor
    sample: Tensor
    shown: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, content: Tensor, sample: Tensor) -> _Side:
        rows, samples = content.nonzero()[:, 0], int(sample.max()) + 1 if len(sample) else 0
        embeddings, content, sample = embeddings[rows], content[rows], sample[rows]
        number = torch.arange(len(sample)) - torch.searchsorted(sample, sample)
        shown = content.new_zeros(samples, int(number.max()) + 1 if len(number) else 1)
        shown[sample, number] = content
        return cls(embeddings, content, sample, shown)


def _ranks(query: _Side, other: _Side) -> Tensor:
    """Number of wrong candidates at least as near as the nearest right one, for each query that has a right and a wrong
    one. A candidate is right if it, or its side of the query, is shown by both samples."""
    ranks, asks = list[Tensor](), other.shown[query.sample].any(1).nonzero()[:, 0]
    of_candidates = query.shown[other.sample]
    for rows in asks.split(_BLOCK):
        with torch.autocast("cpu", enabled=False):  # bf16 would make near ones equal
            cosines = query.embeddings[rows] @ other.embeddings.T
        right = _among(query.content[rows], of_candidates) | _among(other.content, other.shown[query.sample[rows]]).T
        cosines, right = cosines[wrong := ~right.all(1)], right[wrong]
        nearest = cosines.masked_fill(~right, -2.0).amax(1, keepdim=True)
        ranks.append((~right & (cosines >= nearest)).sum(1))
    return torch.cat(ranks) if ranks else asks


def _among(content: Tensor, shown: Tensor) -> Tensor:
    """bool (m, n): whether each of m contents is among those of each of n rows."""
    among = torch.zeros(len(content), len(shown), dtype=torch.bool)
    for column in shown.T:
        among |= content[:, None] == column
    return among


def _same(content: Tensor, candidates: Tensor, query: int, other: int) -> Tensor:
    """bool (B, n): whether a candidate's side `other` is a right answer to a sample's side `query`, since the two show
    the same on either side."""
    one, another = (content[:, side, None] == candidates[None, :, side] for side in (query, other))
    return (one | another) & (candidates[:, other] != 0)


def _digest(parts: Sequence[Shown]) -> int:
    """63 bits of what one side shows; 0 for nothing."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        features = np.empty((len(part), 0), np.float32) if part.features is None else part.features
        digest.update(repr(features.shape).encode())
        for array in (part.pos, part.ids, features):
            digest.update(np.ascontiguousarray(array).tobytes())
    return (int.from_bytes(digest.digest(), "little") >> 1) or 1 if any(map(len, parts)) else 0

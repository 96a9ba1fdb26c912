"""Output rows of every modality, and the cross-entropy of the predicted tokens.

In: the decoder's output (B, M, D) and targets sorted by modality, with their counts known on the host, so that each
modality's rows are plain slices: no boolean indexing, no synchronisation with the device. Out: per modality the sum of
the cross-entropies in nats (float32) and the number of predicted tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fourm_engine.nn.init import Initial
from fourm_engine.nn.linear import linear

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from fourm_engine.vocabulary import Vocabulary

# Maximum number of logits at a time (0.5 GB in float32); beyond it the head works in chunks of tokens and
# recomputes each chunk in the backward pass.
MAX_LOGITS = 2**27
# Small, so that the loss starts near ln V: the decoder's final norm gives vectors of length √D, hence logits of
# standard deviation 0.1 √D · D^-½ = 0.1.
HEAD_SCALE = 0.1
#: Numbers between two rows of logits on a CPU: rows a power of two apart map to the same cache sets, which makes
#: products with the 16,384 logits of a token a tenth slower.
ROW_PADDING = 16


#: The target of each true id: (ids int64 (V, K), their probabilities float32 (V, K), which sum to 1).
SoftTarget: TypeAlias = tuple[Tensor, Tensor]


def cross_entropy_sum(
    y_TD: Tensor, weight_VD: Tensor, ids_T: Tensor, soft: SoftTarget | None = None
) -> Float[Tensor, ""]:
    """Σ −log softmax(y Wᵀ)[id] in nats, a float32 scalar; or the cross-entropies with `soft` targets."""
    logits = F.linear(y_TD, weight_VD).float()
    if soft is None:
        return F.cross_entropy(logits, ids_T, reduction="sum")
    alike_VK, shares_VK = soft
    return -(shares_VK[ids_T].float() * logits.log_softmax(1).gather(1, alike_VK[ids_T])).sum()


class _FusedCrossEntropy(torch.autograd.Function):
    """`cross_entropy_sum` of all modalities, for CPUs, where the bottleneck is how often (T, V) and (V, D) numbers are
    written: the logits are turned into probabilities and then their gradient in place, and the gradients of output rows
    are written to their final location rather than joined afterwards."""

    @staticmethod
    def forward(
        ctx: Any,
        y_TD: Tensor,
        weight_VD: Tensor,
        ids_T: Tensor,
        parts: list[tuple[slice, slice]],
        soft: list[SoftTarget | None],
    ) -> tuple[Tensor, ...]:
        """`parts`: (tokens, rows) of each modality; all rows are in one of them. `soft`: of each modality."""
        sums, probabilities = [], []
        for (tokens, rows), target in zip(parts, soft, strict=True):
            weight = weight_VD[rows]
            logits = y_TD.new_empty(tokens.stop - tokens.start, len(weight) + ROW_PADDING)
            torch.mm(y_TD[tokens], weight.T, out=logits[:, :-ROW_PADDING])
            logits[:, -ROW_PADDING:] = -torch.inf
            ids, shares = _targets(ids_T[tokens], target)
            highest, at = logits.amax(1), (logits.gather(1, ids) * shares).sum(1)
            probabilities.append(torch.softmax(logits, 1, out=logits))
            # Of the largest one, whose probability is not rounded to 0.
            sums.append((highest - at - probabilities[-1].amax(1).log()).sum())
        ctx.save_for_backward(y_TD, weight_VD, ids_T, *probabilities)
        ctx.parts, ctx.soft = parts, soft
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y_TD, weight_VD, ids_T, *probabilities = ctx.saved_tensors
        of_y, of_weight = (
            torch.empty_like(x) if needed else None for x, needed in zip((y_TD, weight_VD), ctx.needs_input_grad)
        )
        for grad, probability, (tokens, rows), target in zip(grads, probabilities, ctx.parts, ctx.soft, strict=True):
            error = probability[:, :-ROW_PADDING]
            ids, shares = _targets(ids_T[tokens], target)
            error.scatter_add_(1, ids, -shares)
            if of_y is not None:
                torch.mm(error, weight_VD[rows], out=of_y[tokens]).mul_(grad)
            if of_weight is not None:
                torch.mm(error.T, y_TD[tokens] * grad, out=of_weight[rows])
        return of_y, of_weight, None, None, None


def _targets(ids_T: Tensor, soft: SoftTarget | None) -> tuple[Tensor, Tensor]:
    """(ids (T, K), probabilities (T, K)) of some targets."""
    if soft is None:
        return ids_T[:, None], torch.ones(len(ids_T), 1)
    return soft[0][ids_T], soft[1][ids_T]


class Heads(nn.Module):
    """The output matrix (V, D), without bias; a modality's logits come from its slice of rows."""

    def __init__(self, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary.size, width))
        entries = sorted(vocabulary.entries, key=lambda entry: (entry.start, entry.stop))
        self._names = [entry.name for entry in entries]
        self._rows = [entry.stop - entry.start for entry in entries]
        assert sum(self._rows) == vocabulary.size, "the entries' slices must tile the vocabulary"

    def initial(self) -> Initial:
        """The initial values of the matrix."""
        return Initial("gaussian", HEAD_SCALE * self.weight.shape[1] ** -0.5)

    def slices(self) -> dict[str, Tensor]:
        """Modality -> its rows (V_m, D). One split instead of slices: its backward is one concatenation, while each
        slice would allocate a gradient of the whole matrix."""
        parts = zip(self._names, self.weight.split(self._rows), strict=True)
        return {name: rows for name, rows in parts if len(rows) > 0}

    def logits(self, y: Float[Tensor, "... D"], name: str) -> Float[Tensor, "... V_m"]:
        """Logits over the modality's ids. Raises ValueError for a modality without output rows."""
        slices = self.slices()
        if name not in slices:
            raise ValueError(f"this model cannot predict {name!r}; it predicts {', '.join(slices)}")
        return linear(y, slices[name])

    def forward(
        self,
        y_BMD: Float[Tensor, "B M D"],
        target_index: Int[Tensor, " T"],
        target_ids: Int[Tensor, " T"],
        counts: dict[str, int],
        *,
        by_token: bool = False,
        soft: Mapping[str, SoftTarget] | None = None,
    ) -> dict[str, tuple[Float[Tensor, ""] | Float[Tensor, " T_m"], int]]:
        """Modality -> (sum of its cross-entropies in nats, float32; count), for every modality in `counts`.

        Args:
            y_BMD: the decoder's output.
            target_index: flat indices into B·M, sorted by modality in the order of `counts`.
            target_ids: ids local to the modality, in the same order. Entries beyond Σ counts are ignored.
            counts: predicted tokens; 0 is allowed and gives a loss of 0.
            by_token: for measuring, without gradients: return each token's cross-entropy instead of their sum.
            soft: modality -> its soft targets; the others, and `by_token`, have the true ids as targets."""
        lengths, total = list(counts.values()), sum(counts.values())
        y_TD = y_BMD.flatten(0, 1).index_select(0, target_index[:total])
        ids_T, losses, soft = target_ids[:total], {}, soft or {}
        if not by_token and self._can_fuse(y_TD, counts):
            names = self._in_order(counts)
            sums = _FusedCrossEntropy.apply(
                y_TD, self.weight, ids_T, self._parts(counts), [soft.get(name) for name in names]
            )
            return {name: (total, count) for (name, count), total in zip(counts.items(), sums, strict=False)}
        slices = self.slices()
        for name, y, ids in zip(counts, y_TD.split(lengths), ids_T.split(lengths), strict=True):
            rows = slices[name]
            losses[name] = (
                self._nats(y, rows, ids) if by_token else self._loss(y, rows, ids, soft.get(name)),
                counts[name],
            )
        return losses

    def _can_fuse(self, y_TD: Tensor, counts: dict[str, int]) -> bool:
        rows = dict(zip(self._names, self._rows, strict=True))
        fits = all(count * rows[name] <= MAX_LOGITS for name, count in counts.items())
        plain = y_TD.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return fits and plain and y_TD.device.type == "cpu" and torch.is_grad_enabled()

    def _parts(self, counts: dict[str, int]) -> list[tuple[slice, slice]]:
        """(tokens, rows) of each modality in `counts`, then of the others, which have no tokens."""
        rows, first = {}, 0
        for name, number in zip(self._names, self._rows, strict=True):
            rows[name] = slice(first, first := first + number)
        parts, first = [], 0
        for name in self._in_order(counts):
            parts.append((slice(first, first := first + counts.get(name, 0)), rows[name]))
        return parts

    def _in_order(self, counts: dict[str, int]) -> list[str]:
        return [*counts, *(name for name in self.slices() if name not in counts)]

    @staticmethod
    def _loss(y_TD: Tensor, weight_VD: Tensor, ids_T: Tensor, soft: SoftTarget | None) -> Tensor:
        chunk = max(1, MAX_LOGITS // len(weight_VD))
        if len(ids_T) <= chunk:
            return cross_entropy_sum(y_TD, weight_VD, ids_T, soft)
        total = y_TD.new_zeros((), dtype=torch.float32)
        for start in range(0, len(ids_T), chunk):
            rows = slice(start, start + chunk)
            total = total + checkpoint(cross_entropy_sum, y_TD[rows], weight_VD, ids_T[rows], soft, use_reentrant=False)
        return total

    @staticmethod
    def _nats(y_TD: Tensor, weight_VD: Tensor, ids_T: Tensor) -> Tensor:
        chunk = max(1, MAX_LOGITS // len(weight_VD))
        parts = zip(y_TD.split(chunk), ids_T.split(chunk), strict=True)
        return torch.cat([F.cross_entropy(F.linear(y, weight_VD).float(), ids, reduction="none") for y, ids in parts])

"""Parallel decoding: each step re-encodes the known tokens and predicts the rest of a grid or vector from mask tokens.

In: samples, a stage, the branches of guidance. Out: the tokens of each sample. A step computes only what it needs:
equal rows run once, and branches with coefficient 0, finished samples and unused predictions are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.batch import Patches, Tokens
from fourm_engine.device import on_host, to_device
from fourm_engine.generate.graphs import Graphs
from fourm_engine.generate.guidance import Branches, Guide, mix, progress
from fourm_engine.generate.orders import Order
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.rows import Packing, distinct, group_by_length
from fourm_engine.generate.sample import Sample
from fourm_engine.generate.sampling import draw, log_probability, most_confident, uniforms
from fourm_engine.generate.schedules import temperatures, tokens_per_step
from fourm_engine.nn.transformer import Transformer
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_plugins.order import Predicted

if TYPE_CHECKING:
    from jaxtyping import Float

#: On a GPU, widths of encoder and decoder are rounded up to multiples of these: kernels prefer such masks, and shapes
#: recur.
INPUTS_BY, TARGETS_BY = 32, 16
#: Called after each step with the target, the ids so far, int64 (B, n), and which of them are known, bool (B, n).
StepCallback = Callable[[str, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Filled:
    """One generated modality of one sample."""

    ids: np.ndarray  # (n,) int64 local ids; a sequence without its end marker
    probabilities: np.ndarray | None = None  # (n, V) float32
    #: For a sequence: (n,) float32, the model's probability of each token, before temperature and filters; 1 for known
    #: tokens.
    confidence: np.ndarray | None = None


class BranchDecoder:
    """One network, and its encoder inputs for each (branch, sample)."""

    def __init__(
        self,
        network: Transformer,
        vocabulary: Vocabulary,
        branches: Branches,
        samples: Sequence[Sample],
        graphs: Graphs | None = None,
    ) -> None:
        self.network, self.branches, self.entry = network, branches, vocabulary[branches.target]
        self.shapes = None if graphs is None else graphs.shapes(network)
        rows = branches.rows(samples)
        which, first = distinct(rows)
        self.row_index = np.array(which).reshape(len(branches), len(samples))
        self.packing = Packing([rows[i] for i in first], vocabulary, next(network.parameters()).device)

    def predict(
        self, tokens: Tokens, continuous: dict[str, Patches], position_RM: Tensor, slot_RM: Tensor
    ) -> Float[Tensor, "R M D"]:
        """The decoder's output for the target's tokens at these positions, for the valid slots only. It may be
        overwritten by the next call."""
        network, mod_RM = self.network, torch.where(slot_RM, self.entry.index, -1)

        def decoded(context_RND: Tensor, valid_RN: Tensor, position_RM: Tensor, mod_RM: Tensor) -> Tensor:
            masked = Tokens(torch.full_like(mod_RM, -1), position_RM, mod_RM, torch.zeros_like(mod_RM))
            return network.decode(masked, context_RND, valid_RN)

        def predicted(content: Tensor, pos_embed: Tensor, valid: Tensor, position_RM: Tensor, mod_RM: Tensor) -> Tensor:
            return decoded(*network.context(content, pos_embed, valid), position_RM, mod_RM)

        if self.shapes is None:
            return decoded(*network.encode(tokens, continuous), position_RM, mod_RM)
        # Embedded outside the recorded work: the number of patches varies more than the shape of the embeddings.
        embedded = network.embedding.encoder(tokens.ids, tokens.pos, tokens.mod, continuous)
        return self.shapes(predicted, *embedded, tokens.mod >= 0, position_RM, mod_RM)


@dataclass(frozen=True)
class _Slots:
    """What a step predicts: at most M tokens of each of A active samples, T in all."""

    active_A: Tensor
    count_A: Tensor  # tokens to keep
    index_AM: Tensor  # positions in the modality
    valid_AM: Tensor
    widths: list[int]  # slots that must be computed, per sample
    row_T: np.ndarray  # on the host
    flat_T: Tensor  # index among the A · M slots
    sample_T: Tensor
    position_T: Tensor


class ParallelDecoder:
    """One stage for a batch of samples. `decoders`: the model, and the `guide` if there is one."""

    def __init__(
        self,
        samples: Sequence[Sample],
        stage: Stage,
        order: Order | None,
        rngs: Sequence[torch.Generator],
        decoders: Sequence[BranchDecoder],
        guide: Guide | None = None,
    ) -> None:
        self.stage, self.order, self.decoders, self.guide = stage, order, decoders, guide
        self.entry = decoders[0].entry
        # Compiled blocks need one shape for all steps; otherwise each step is as small as possible.
        self.fixed = decoders[0].network.compiled
        device, n, batch = decoders[0].packing.device, self.entry.layout.num_tokens, len(samples)
        self.device = device
        ids_Bn = torch.zeros(batch, n, dtype=torch.int64)
        known_Bn = torch.zeros(batch, n, dtype=torch.bool)
        for b, sample in enumerate(samples):
            if part := sample.known.get(stage.target):
                ids_Bn[b, part.pos], known_Bn[b, part.pos] = torch.from_numpy(part.ids), True
        self.tokens = [n - int(count) for count in known_Bn.sum(1)]  # to generate, per sample
        self.remaining = list(self.tokens)
        self.ids_Bn, self.known_Bn = ids_Bn.to(device), known_Bn.to(device)
        self.given_Bn, self.confidence_Bn = self.known_Bn.clone(), torch.zeros(batch, n, device=device)

        # All random numbers are drawn before the first step, so that a sample gets the same ones in any batch.
        self.uniform_SBn = uniforms(rngs, stage.steps, n, device=device).transpose(0, 1)
        self.priority_Bn = uniforms(rngs, n, device=device) if stage.scheme == "random_order" else None
        if order is not None:
            self.order_uniform_SBn = uniforms(rngs, stage.steps, n, device=device).transpose(0, 1)
            if (priority_n := order.fixed_scores()) is not None:
                self.priority_Bn = priority_n.to(device).float().expand(batch, n)
        # With few tokens, the linear schedule takes fewer steps.
        counts = [tokens_per_step(stage.schedule, stage.steps, tokens) for tokens in self.tokens]
        self.counts = [row + [0] * (stage.steps - len(row)) for row in counts]
        self.temperatures = [_temperatures(stage, row) for row in self.counts]
        self.probabilities = None
        if stage.readout == "expected":
            self.probabilities = torch.zeros(batch, n, self.entry.size, device=device)
            self.probabilities.scatter_(2, self.ids_Bn[..., None], self.known_Bn[..., None].float())

        # Samples with equal known tokens share their rows until they diverge.
        self.state, _ = distinct(
            [{stage.target: sample.known[stage.target]} if stage.target in sample.known else {} for sample in samples]
        )
        if stage.scheme == "random_order":
            self.state = [-1 - b for b in range(batch)]

    def run(self, callback: StepCallback | None = None) -> list[Filled]:
        steps = self.stage.steps
        for step in range(steps):
            revealed = [tokens - sum(row[: step + 1]) for tokens, row in zip(self.tokens, self.counts, strict=True)]
            count = [left - after for left, after in zip(self.remaining, revealed, strict=True)]
            adaptive = self.order is not None and self.order.adaptive
            active = [b for b, left in enumerate(self.remaining) if left and (count[b] > 0 or adaptive)]
            if self.fixed and active:
                active = list(range(len(self.remaining)))
            if active:
                self._step(step, active, [max(0, count[b]) for b in active])
                if callback is not None:
                    callback(self.stage.target, self.ids_Bn.cpu().numpy().copy(), self.known_Bn.cpu().numpy().copy())
            if not any(self.remaining):
                break
        assert not any(self.remaining)
        return [
            Filled(ids, None if self.probabilities is None else self.probabilities[b].cpu().numpy())
            for b, ids in enumerate(self.ids_Bn.cpu().numpy())
        ]

    def _step(self, step: int, active: list[int], count: list[int]) -> None:
        """Predict unknown tokens of the `active` samples, and keep `count` of each."""
        stage, slots = self.stage, self._slots(active, count)
        logits_TV = self._logits(step, active, slots)
        temperature_A = np.array([self.temperatures[b][step] for b in active], np.float32)
        new_T = draw(
            logits_TV,
            self.uniform_SBn[step][slots.sample_T, slots.position_T],
            temperature=to_device(temperature_A[slots.row_T], self.device) if stage.temperature > 0 else None,
            top_k=stage.top_k,
            top_p=stage.top_p,
        )
        remasked: dict[int, Tensor] = {}
        at_K: slice | Tensor = slice(None)  # which of the T tokens are kept
        if self.priority_Bn is not None:
            confidence_T = logits_TV.new_zeros(len(new_T))
        else:
            confidence_T = log_probability(logits_TV, new_T)
            at_K, remasked = self._choose(step, active, count, slots, confidence_T, logits_TV)
        sample_K, position_K = slots.sample_T[at_K], slots.position_T[at_K]
        self.ids_Bn[sample_K, position_K] = new_T[at_K]
        # Assigning `True` would copy it from the host and synchronise.
        self.known_Bn[sample_K, position_K] = torch.ones_like(position_K, dtype=torch.bool)
        self.confidence_Bn[sample_K, position_K] = confidence_T[at_K]
        if self.probabilities is not None:
            self.probabilities[sample_K, position_K] = logits_TV[at_K].softmax(-1)
        if self.order is not None and self.order.adaptive:
            count = torch.bincount(sample_K, minlength=len(self.remaining))[slots.active_A].tolist()
        for b, kept in zip(active, count, strict=True):
            self.remaining[b] -= kept
            if kept:
                self.state[b] = -1 - b
        for b, remasked_n in remasked.items():
            self.known_Bn[b] &= ~remasked_n
            self.remaining[b] += int(remasked_n.sum())

    def _slots(self, active: list[int], count: list[int]) -> _Slots:
        active_A, count_A = to_device(np.array([active, count]), self.device)
        predicted_An, numbers = ~self.known_Bn[active_A], [self.remaining[b] for b in active]
        if self.priority_Bn is not None:  # predict only what this step keeps
            predicted_An, numbers = most_confident(self.priority_Bn[active_A], predicted_An, count_A), count
        if self.fixed:
            width = max(map(max, self.counts)) if self.priority_Bn is not None else max(self.tokens)
        else:
            width = self._rounded(max(numbers))
        index_AM, valid_AM = _compact(predicted_An, width)
        # The valid slots, known on the host: the first ones of each row.
        row_T = np.repeat(np.arange(len(active)), numbers)
        slot_T = np.concatenate([np.arange(n) for n in numbers])
        flat_T, sample_T = to_device(np.stack([row_T * width + slot_T, np.array(active)[row_T]]), self.device)
        widths = [width] * len(active) if self.fixed else numbers
        return _Slots(
            active_A, count_A, index_AM, valid_AM, widths, row_T, flat_T, sample_T, index_AM.flatten()[flat_T]
        )

    def _logits(self, step: int, active: list[int], slots: _Slots) -> Tensor:
        """float32 (T, V), guided by the weaker model, if any."""

        def logits(decoder: BranchDecoder) -> Tensor:
            y_AMD = self._predict(decoder, step, active, slots)
            return decoder.network.logits(y_AMD.flatten(0, 1)[slots.flat_T], self.stage.target).float()

        logits_TV = logits(self.decoders[0])
        weight = 1.0 if self.guide is None else self.guide.at(progress(step, self.stage.steps))
        return logits_TV if weight == 1 else torch.lerp(logits(self.decoders[1]), logits_TV, weight)

    def _choose(
        self,
        step: int,
        active: list[int],
        count: list[int],
        slots: _Slots,
        confidence_T: Tensor,
        logits_TV: Tensor,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Which of the T tokens to keep, and the known tokens to mask again, bool (n,), by sample."""
        if self.order is None:
            confidence_AM = torch.zeros(slots.valid_AM.shape, device=self.device)
            confidence_AM.view(-1)[slots.flat_T] = confidence_T
            kept_T = most_confident(confidence_AM, slots.valid_AM, slots.count_A).flatten()[slots.flat_T]
            return _compact(kept_T[None], sum(count))[0][0], {}
        parts, remasked = [], dict[int, Tensor]()
        for b, number, of_b in zip(active, count, _runs([self.remaining[b] for b in active]), strict=True):
            position_U = slots.position_T[of_b]
            predicted = self._predicted(step, b, number, position_U, confidence_T[of_b], logits_TV[of_b])
            parts.append(self.order.keep(predicted)[position_U])
            if step + 1 < self.stage.steps and (remasked_n := self.order.remask(predicted)) is not None:
                remasked[b] = remasked_n
        return torch.cat(parts).nonzero()[:, 0], remasked

    def _predicted(
        self, step: int, b: int, count: int, position_U: Tensor, confidence_U: Tensor, logits_UV: Tensor
    ) -> Predicted:
        confidence_n, unknown_n = self.confidence_Bn[b].clone(), ~self.known_Bn[b]
        confidence_n[position_U] = confidence_U
        given_n, order_uniform_n = self.given_Bn[b].clone(), self.order_uniform_SBn[step, b]
        return Predicted(step, self.stage.steps, count, unknown_n, given_n, confidence_n, logits_UV, order_uniform_n)

    def _predict(self, decoder: BranchDecoder, step: int, active: list[int], slots: _Slots) -> Tensor:
        """The decoder's output (A, M, D), branches combined before the output head, which is linear."""
        at = progress(step, self.stage.steps)
        coefficients_KA = decoder.branches.coefficients(len(self.remaining), at)[:, active]
        row_KA, inputs, owners = self._rows_to_run(decoder, active, coefficients_KA != 0)
        known = [len(self.known_Bn[0]) - self.remaining[active[a]] for a in owners]
        if self.fixed:
            adaptive = self.order is not None and self.order.adaptive
            known = [len(self.known_Bn[0]) - (1 if adaptive else min(row[-1] for row in self.counts))] * len(owners)
        lengths = [sum(map(len, decoder.packing.rows[i].values())) + n for i, n in zip(inputs, known, strict=True)]
        most, y_RMD = slots.index_AM.shape[1], None
        for group in group_by_length([max(1, n) for n in lengths]):
            base, continuous = decoder.packing.packed(tuple(inputs[r] for r in group))
            of_group = [owners[r] for r in group]
            at, sample, number = to_device(np.array([of_group, [active[a] for a in of_group], group]), self.device)
            tokens = _append(
                base, self.ids_Bn[sample], self.known_Bn[sample], decoder.entry, max(known[r] for r in group)
            )
            if not self.fixed:
                length = max(1, *(lengths[r] for r in group))
                tokens = _resized(tokens, length if on_host(self.known_Bn) else length + -length % INPUTS_BY)
            width = min(most, self._rounded(max(slots.widths[a] for a in of_group)))
            y = decoder.predict(tokens, continuous, slots.index_AM[at, :width], slots.valid_AM[at, :width])
            if len(group) == len(inputs) and width == most:
                y_RMD = y if group == sorted(group) else torch.empty_like(y).index_copy_(0, number, y)
                break
            if y_RMD is None:
                y_RMD = y.new_zeros(len(inputs), most, y.shape[-1])
            y_RMD[number, :width] = y
        assert y_RMD is not None
        return mix(y_RMD, row_KA.flatten(), coefficients_KA)

    def _rows_to_run(
        self, decoder: BranchDecoder, active: list[int], used_KA: np.ndarray
    ) -> tuple[np.ndarray, list[int], list[int]]:
        """The distinct rows of the encoder: the row of each (branch, active sample), -1 if it is unused, and for each
        row its inputs (an index into `decoder.packing.rows`) and the active sample whose known tokens it has."""
        row_KA, numbers = np.full(used_KA.shape, -1), dict[tuple[int, int], int]()
        inputs, owners = list[int](), list[int]()
        for k, a in np.argwhere(used_KA | self.fixed).tolist():
            which, b = int(decoder.row_index[k, active[a]]), active[a]
            key = (k, -1 - b) if self.fixed else (which, self.state[b])
            if key not in numbers:
                numbers[key] = len(inputs)
                inputs.append(which)
                owners.append(a)
            row_KA[k, a] = numbers[key]
        return row_KA, inputs, owners

    def _rounded(self, width: int) -> int:
        """The decoder width for `width` slots, rounded up where few shapes matter more than small ones."""
        return width if on_host(self.known_Bn) else min(self.known_Bn.shape[1], width + -width % TARGETS_BY)


def _temperatures(stage: Stage, counts: Sequence[int]) -> list[float]:
    return temperatures(
        stage.temperature_schedule,
        counts,
        temperature=stage.temperature,
        minimum=stage.temperature_min,
        power=stage.temperature_power,
    )


def _runs(lengths: Sequence[int]) -> list[slice]:
    """Consecutive slices of these lengths."""
    ends = np.cumsum(lengths).tolist()
    return [slice(end - n, end) for n, end in zip(lengths, ends, strict=True)]


def _compact(mask_Bn: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The positions of the True entries of each row, ascending, as (B, width), and a mask of the valid slots."""
    index_BM = (~mask_Bn).int().argsort(dim=1, stable=True)[:, :width]
    return index_BM, mask_Bn.gather(1, index_BM)


def _append(base: Tokens, ids_Bn: Tensor, known_Bn: Tensor, entry: Entry, width: int) -> Tokens:
    """The encoder's tokens, followed by `width` slots for the target's known tokens."""
    if width == 0:
        return base
    index, slot = _compact(known_Bn, width)
    rows = torch.where(slot, ids_Bn.gather(1, index) + entry.start, -1)
    known = Tokens(rows, index, torch.where(slot, entry.index, -1), torch.zeros_like(index))
    return Tokens(*(torch.cat(pair, 1) for pair in zip(vars(base).values(), vars(known).values(), strict=True)))


def _resized(tokens: Tokens, width: int) -> Tokens:
    """The same tokens in `width` slots; if that is fewer, the padding between them is dropped. The order is kept, since
    patches are matched to tokens by it."""
    if tokens.shape[1] <= width:
        return Tokens(*(F.pad(x, (0, width - x.shape[1]), value=-1) for x in vars(tokens).values()))
    index, _ = _compact(tokens.mod >= 0, width)
    return Tokens(*(x.gather(1, index) for x in vars(tokens).values()))

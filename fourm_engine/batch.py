"""The model's input: integers of fixed shape, packed before embedding.

`Tokens` are the rows of encoder or decoder; `Batch` is both, the targets, and the continuous inputs. `collate` makes a
`Batch` from packed samples (`fourm_engine.masking.pack.PackedSample`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fourm_engine.vocabulary import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class TensorFields:
    """A dataclass whose fields are tensors, nested instances, or dicts of these."""

    def _each(self, change: Callable[[Tensor], Tensor | None]) -> Self:
        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: changed(one) for key, one in value.items()}
            if isinstance(value, TensorFields):
                return value._each(change)
            return change(value) if isinstance(value, Tensor) else value

        return type(self)(*(changed(getattr(self, field.name)) for field in fields(self)))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which copies to a GPU overlap with its work. Called by the
        DataLoader."""
        return self._each(Tensor.pin_memory)

    def share_memory(self) -> Self:
        """The same in memory that other processes can map. Raises RuntimeError if there is no space for it."""
        return self._each(Tensor.share_memory_)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep its GPU memory until `stream` has used it."""
        self._each(lambda tensor: tensor.record_stream(stream))


@dataclass
class Tokens(TensorFields):
    """Four int64 tensors of one shape (B, N)."""

    ids: Tensor  # row of the vocabulary; -1 for a mask token (decoder) or a continuous input (encoder)
    pos: Tensor  # index in the grid, rank in the sequence, index in the vector
    mod: Tensor  # index of the modality in the vocabulary; -1 for padding
    order: Tensor  # decoder: query q attends to key k iff mod_q == mod_k and order_k <= order_q; 0 in the encoder

    @property
    def shape(self) -> torch.Size:
        return self.ids.shape


@dataclass
class Patches(TensorFields):
    """The K kept patches of one continuous modality, packed, with their locations in the batch."""

    values: Tensor  # float32 (K, patch_dim)
    row: Tensor  # (K,) int64, in [0, B)
    slot: Tensor  # (K,) int64, in [0, N)


@dataclass
class Batch(TensorFields):
    """One training batch. The T targets are sorted by modality, in the vocabulary's order."""

    encoder: Tokens  # (B, N)
    decoder: Tokens  # (B, M)
    continuous: dict[str, Patches]  # modality -> its patches, ordered by row and slot; K varies
    target_index: Tensor  # (T,) int64 into the flattened (B * M)
    target_ids: Tensor  # (T,) int64, local to the modality
    target_counts: dict[str, int]  # modality -> number of targets, on the host; sums to T

    def named(self) -> dict[str, Tensor]:
        """All tensors by name; the inverse of `from_named`."""
        parts: dict[str, Any] = {"encoder": self.encoder, "decoder": self.decoder}
        parts |= {f"continuous/{name}": patches for name, patches in self.continuous.items()}
        named = {f"{at}/{f.name}": getattr(part, f.name) for at, part in parts.items() for f in fields(part)}
        return named | {"target_index": self.target_index, "target_ids": self.target_ids}

    @classmethod
    def from_named(cls, tensors: Mapping[str, Tensor], vocabulary: Vocabulary) -> Batch:
        """Raises KeyError if a tensor is missing."""

        def part(kind: Any, at: str) -> Any:
            return kind(*(tensors[f"{at}/{field.name}"] for field in fields(kind)))

        decoder, index = part(Tokens, "decoder"), tensors["target_index"]
        counts = torch.bincount(decoder.mod.reshape(-1)[index], minlength=len(vocabulary)).tolist()
        return cls(
            part(Tokens, "encoder"),
            decoder,
            {e.name: part(Patches, f"continuous/{e.name}") for e in vocabulary if e.patch_dim},
            index,
            tensors["target_ids"],
            {e.name: counts[e.index] for e in vocabulary if e.size},
        )


def collate(samples: Sequence[PackedSample], vocabulary: Vocabulary, N: int, M: int) -> Batch:
    """Pad packed samples to (B, N) and (B, M), padding last, and sort their targets by modality.

    Every continuous modality of the vocabulary has an entry for its patches and every modality with ids one for its
    count, even if empty or 0, so that batches differ only in T and the numbers of patches. Raises ValueError for a
    sample that does not fit."""
    inputs = [(sample.encoder, sample.continuous) for sample in samples]
    encoder, continuous = collate_inputs(inputs, vocabulary, N, [e.name for e in vocabulary if e.patch_dim])
    decoder = _pad([sample.decoder for sample in samples], M, "target", "decoder_capacity")
    mod = decoder[2].reshape(-1)  # (B * M,)
    used = np.flatnonzero(mod >= 0)  # in the order of the samples' labels
    labels = np.concatenate([sample.labels for sample in samples])
    by_modality = np.argsort(mod[used].astype(np.int16), kind="stable")  # 16 bits sort by radix
    counts = np.bincount(mod[used], minlength=len(vocabulary))
    return Batch(
        encoder,
        Tokens(*torch.from_numpy(decoder).unbind()),
        continuous,
        torch.from_numpy(used[by_modality]),
        torch.from_numpy(labels[by_modality]),
        {e.name: int(counts[e.index]) for e in vocabulary if e.size},
    )


def collate_inputs(
    inputs: Sequence[tuple[np.ndarray, Mapping[str, Kept]]],
    vocabulary: Vocabulary,
    N: int,
    continuous: Sequence[str],
) -> tuple[Tokens, dict[str, Patches]]:
    """Pad encoder rows (4, n) to (B, N), and pack the patches of the modalities `continuous`."""
    encoder, patches = _pad([rows for rows, _ in inputs], N, "input", "encoder_capacity"), {}
    for name in continuous:
        row, slot = np.nonzero(encoder[2] == vocabulary[name].index)
        values, end = np.empty((len(row), vocabulary[name].patch_dim), np.float32), 0
        for _, kept in inputs:
            if name in kept:
                begin, end = end, end + len(kept[name].at)
                # The only copy of them; "wrap" since "raise" would make another.
                kept[name].patches.take(kept[name].at, axis=0, out=values[begin:end], mode="wrap")
        patches[name] = Patches(*(torch.from_numpy(x) for x in (values, row, slot)))
    return Tokens(*torch.from_numpy(encoder).unbind()), patches


def _pad(rows: list[np.ndarray], length: int, what: str, setting: str) -> np.ndarray:
    """Rows (4, n) each -> (4, B, length): ids and mod -1, pos and order 0 where padded."""
    out = np.zeros((4, len(rows), length), np.int64)
    out[0], out[2] = -1, -1
    for b, row in enumerate(rows):
        if row.shape[1] > length:
            raise ValueError(
                f"a sample has {row.shape[1]} {what} tokens, the batch holds {length}; raise masking.{setting}"
            )
        out[:, b, : row.shape[1]] = row
    return out


class Kept(NamedTuple):
    """The patches of one continuous modality of a sample, and which of them are inputs."""

    patches: np.ndarray  # float32 (tokens, patch_dim)
    at: np.ndarray  # (n,) int64, in the order of the sample's rows

    def rows(self) -> np.ndarray:
        """float32 (n, patch_dim)."""
        return self.patches[self.at]


@dataclass(frozen=True)
class PackedSample:
    """n input and m target rows, grouped by modality in the vocabulary's order; int64 except for `continuous`."""

    encoder: np.ndarray  # (4, n): ids (row of the vocabulary, -1 continuous), pos, mod, order (0)
    decoder: np.ndarray  # (4, m): ids (row of the vocabulary, -1 mask token), pos, mod, order
    labels: np.ndarray  # (m,) ids local to the modality
    continuous: dict[str, Kept]  # the continuous modalities among the inputs
    component: str = ""  # the mixture component that it was drawn from

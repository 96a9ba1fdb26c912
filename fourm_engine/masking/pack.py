"""Packs the tokens of samples into rows, for training and for generation: only kept tokens are embedded.

`pack` makes a `PackedSample` of masked modalities, which `fourm_engine.batch.collate` pads to the shape of a batch;
`pack_inputs` makes the encoder's tokens of samples without targets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fourm_engine.batch import Kept, PackedSample, Patches, Tokens, collate_inputs
from fourm_engine.masking.rows import MaskedRows, ragged
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.manager import PluginManager
from fourm_plugins.masker import Masked, Masker, SpecialTokens
from fourm_plugins.modality import Modality
from fourm_plugins.spec import FeatureMap, ModalitySpec
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer


def patchify(array: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    """Array of a continuous modality -> float32 (tokens, patch_dim). Feature map (C, H, W): one row per patch in
    row-major order, flattened as (row in patch, column in patch, channel). Feature vector (size,): equal parts."""
    if not isinstance(spec.array, FeatureMap):
        return array.reshape(spec.layout.num_tokens, -1).astype(np.float32, copy=False)
    (ph, pw), channels = spec.patch, spec.array.channels
    rows, columns = spec.array.height // ph, spec.array.width // pw
    x = array.reshape(channels, rows, ph, columns, pw).transpose(1, 3, 2, 4, 0)  # (rows, columns, ph, pw, C)
    return x.reshape(rows * columns, ph * pw * channels).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Shown:
    """n tokens of one modality: local ids, or (if continuous) the features of each token."""

    pos: np.ndarray  # (n,) int64
    ids: np.ndarray  # (n,) int64; -1 where continuous
    features: np.ndarray | None = None  # (n, patch_dim) float32

    def __len__(self) -> int:
        return len(self.pos)

    @classmethod
    def tokens(cls, ids: np.ndarray | Sequence[int], pos: np.ndarray | None = None) -> Shown:
        ids = np.asarray(ids, np.int64)
        return cls(np.arange(len(ids)) if pos is None else np.asarray(pos, np.int64), ids)

    @classmethod
    def continuous(cls, spec: ModalitySpec, array: np.ndarray) -> Shown:
        features = patchify(np.asarray(array), spec)
        return cls(np.arange(len(features)), np.full(len(features), -1, np.int64), features)

    def at(self, keep: np.ndarray) -> Shown:
        """The tokens for which `keep`, bool (n,), is True."""
        return Shown(self.pos[keep], self.ids[keep], None if self.features is None else self.features[keep])


def build_maskers(
    modalities: Mapping[str, Modality],
    tokenizers: Mapping[str, Tokenizer],
    masker_class: Callable[[str], type[Masker]] | None = None,
) -> dict[str, Masker]:
    """The masker of each modality, from the plugin host's `masker_class`, by default that of a new host. Raises
    ValueError for a sequence without a text tokenizer, and for a masker that cannot be used."""
    find, maskers = masker_class or PluginManager().masker_class, dict[str, Masker]()
    for name, modality in modalities.items():
        spec, special_tokens = modality.spec, None
        if spec.layout.kind == "sequence":
            tokenizer = tokenizers.get(name)
            if not isinstance(tokenizer, TextTokenizer):
                raise ValueError(f"{name}: masking a sequence needs its tokenizer; run `fourm tokenizer fit`")
            special_tokens = SpecialTokens(tokenizer.end_id, tuple(tokenizer.sentinel_ids))
        maskers[name] = find(spec.masker_kind)(spec, special_tokens)
    return maskers


def pack(
    vocabulary: Vocabulary, masked: Mapping[str, Masked], patches: Mapping[str, np.ndarray], component: str = ""
) -> PackedSample:
    """A training sample of the modalities in `masked`, in the vocabulary's order; `patches` has (tokens, patch_dim) for
    each continuous one among them."""
    names = ordered(vocabulary, masked)
    mod = np.array([vocabulary[name].index for name in names], np.int64)
    parts = [(np.arange(len(names)), MaskedRows.of([masked[name] for name in names]))] if names else []
    return pack_rows(vocabulary, np.zeros_like(mod), mod, parts, [patches], [component])[0]


def pack_rows(
    vocabulary: Vocabulary,
    sample: np.ndarray,
    mod: np.ndarray,
    parts: Sequence[tuple[np.ndarray, MaskedRows]],
    contents: Sequence[Mapping[str, np.ndarray]],
    components: Sequence[str],
) -> list[PackedSample]:
    """B training samples from R masked modalities.

    Args:
        sample, mod: (R,) the sample and modality of each row, in packing order.
        parts: (row indices, these rows masked); every row is in one of them.
        contents, components: B each; the patches of each continuous modality, and the sample's component.
    """
    n_inputs, n_targets = np.zeros(len(mod), np.int64), np.zeros(len(mod), np.int64)
    for rows, part in parts:
        n_inputs[rows], n_targets[rows] = part.n_inputs, part.n_targets
    inputs_end, targets_end = n_inputs.cumsum(), n_targets.cumsum()
    encoder, decoder = np.zeros((4, n_inputs.sum()), np.int64), np.zeros((4, n_targets.sum()), np.int64)
    labels = np.zeros(decoder.shape[1], np.int64)
    for rows, part in parts:
        row, rank = ragged(part.n_inputs)
        encoder[:2, (inputs_end - n_inputs)[rows][row] + rank] = part.inputs
        row, rank = ragged(part.n_targets)
        at = (targets_end - n_targets)[rows][row] + rank
        decoder[0, at], decoder[1, at], decoder[3, at], labels[at] = part.targets
    encoder[2], decoder[2] = np.repeat(mod, n_inputs), np.repeat(mod, n_targets)
    start = np.array([entry.start for entry in vocabulary], np.int64)
    continuous = np.array([entry.patch_dim > 0 for entry in vocabulary], np.bool_)
    encoder[0] = np.where(continuous[encoder[2]], -1, encoder[0] + start[encoder[2]])
    decoder[0] = np.where(decoder[0] < 0, -1, decoder[0] + start[decoder[2]])
    features: list[dict[str, Kept]] = [{} for _ in contents]
    for r in np.flatnonzero(continuous[mod] & (n_inputs > 0)):
        b, name = sample[r], vocabulary.entries[mod[r]].name
        features[b][name] = Kept(contents[b][name], encoder[1, inputs_end[r] - n_inputs[r] : inputs_end[r]])
    rows = np.searchsorted(sample, np.arange(len(contents) + 1))  # the first of each sample, and R
    inputs, targets = (np.append(0, end)[rows].tolist() for end in (inputs_end, targets_end))
    return [
        PackedSample(
            encoder[:, inputs[b] : inputs[b + 1]],
            decoder[:, targets[b] : targets[b + 1]],
            labels[targets[b] : targets[b + 1]],
            features[b],
            components[b],
        )
        for b in range(len(contents))
    ]


def pack_inputs(
    samples: Sequence[Mapping[str, Shown]], vocabulary: Vocabulary, capacity: int, device: torch.device | str
) -> tuple[Tokens, dict[str, Patches]]:
    """The encoder's tokens of samples without targets, (B, max(1, capacity)), in the order of each mapping, and the
    patches of every continuous modality among them."""
    packed = [_encoder_rows(vocabulary, sample) for sample in samples]
    names = {name for _, continuous in packed for name in continuous}
    tokens, continuous = collate_inputs(packed, vocabulary, max(1, capacity), sorted(names))
    return tokens.to(device), {name: x.to(device) for name, x in continuous.items()}


def _encoder_rows(vocabulary: Vocabulary, inputs: Mapping[str, Shown]) -> tuple[np.ndarray, dict[str, Kept]]:
    """int64 (4, n) as in `PackedSample.encoder`, and the patches of continuous modalities."""
    rows = []
    for name, part in inputs.items():
        row, entry = np.zeros((4, len(part)), np.int64), vocabulary[name]
        row[0] = -1 if part.features is not None else part.ids + entry.start
        row[1], row[2] = part.pos, entry.index
        rows.append(row)
    kept = {name: Kept(x.features, np.arange(len(x))) for name, x in inputs.items() if x.features is not None}
    return np.concatenate(rows, axis=1) if rows else np.zeros((4, 0), np.int64), kept


def ordered(vocabulary: Vocabulary, names: Collection[str]) -> list[str]:
    """`names` in the order in which they are packed."""
    return sorted(names, key=lambda name: vocabulary[name].index)

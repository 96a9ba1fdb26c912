"""From a sample's masked modalities to packed rows: only what is kept is ever embedded.

In: `Masked` of each modality, patches of continuous ones. Out: `PackedSample`, NumPy, unpadded;
`fourm_engine.batch.collate` pads to the fixed shapes of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from fourm_engine.batch import PackedSample
from fourm_engine.masking.kinds import masker_kind
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.manager import PluginManager
from fourm_plugins.masker import Masked, Masker, Specials
from fourm_plugins.modality import Modality
from fourm_plugins.spec import FeatureMap, ModalitySpec
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer


def patchify(array: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    """Array of a continuous modality -> float32 (tokens, patch_dim).

    Feature map (C, H, W): one row a patch in row-major order, flattened as (row in patch, column in patch, channel).
    Feature vector (size,): equal parts."""
    if not isinstance(spec.array, FeatureMap):
        return array.reshape(spec.layout.num_tokens, -1).astype(np.float32, copy=False)
    (ph, pw), channels = spec.patch, spec.array.channels
    rows, columns = spec.array.height // ph, spec.array.width // pw
    x = array.reshape(channels, rows, ph, columns, pw).transpose(1, 3, 2, 4, 0)  # (rows, columns, ph, pw, C)
    return x.reshape(rows * columns, ph * pw * channels).astype(np.float32, copy=False)


def build_maskers(
    modalities: Mapping[str, Modality],
    tokenizers: Mapping[str, Tokenizer],
    masker_class: Callable[[str], type[Masker]] | None = None,
) -> dict[str, Masker]:
    """The masker of each modality, from the plugin host's `masker_class`, by default a fresh host's.

    Raises ValueError for a sequence without a text tokenizer, and for a masker that cannot be used."""
    find, maskers = masker_class or PluginManager().masker_class, dict[str, Masker]()
    for name, modality in modalities.items():
        spec, specials = modality.spec, None
        if spec.layout.kind == "sequence":
            tokenizer = tokenizers.get(name)
            if not isinstance(tokenizer, TextTokenizer):
                raise ValueError(
                    f"{name}: a sequence needs its text tokenizer to be masked; fit it with `fourm tokenizer fit`"
                )
            specials = Specials(tokenizer.end_id, tuple(tokenizer.sentinel_ids))
        maskers[name] = find(masker_kind(spec))(spec, specials)
    return maskers


def pack(
    vocabulary: Vocabulary, masked: Mapping[str, Masked], patches: Mapping[str, np.ndarray], component: str = ""
) -> PackedSample:
    """Rows of the modalities in `masked`; `patches` has (tokens, patch_dim) of each continuous one among them."""
    inputs, targets, labels, continuous = [], [], [], {}
    for name in ordered(vocabulary, masked):
        m, entry = masked[name], vocabulary[name]
        if len(m.input_ids):
            row = np.zeros((4, len(m.input_ids)), np.int64)
            row[1], row[2] = m.input_pos, entry.index
            if entry.patch_dim:
                row[0] = -1
                continuous[name] = patches[name][m.input_pos]
            else:
                row[0] = m.input_ids + entry.start
            inputs.append(row)
        if len(m.labels):
            row = np.empty((4, len(m.labels)), np.int64)
            row[0] = np.where(m.target_ids < 0, -1, m.target_ids + entry.start)
            row[1], row[2], row[3] = m.target_pos, entry.index, m.target_order
            targets.append(row)
            labels.append(m.labels)
    return PackedSample(
        _join(inputs), _join(targets), np.concatenate(labels) if labels else _EMPTY[0], continuous, component
    )


def ordered(vocabulary: Vocabulary, names: Collection[str]) -> list[str]:
    """`names` in the order in which they are packed."""
    return sorted(names, key=lambda name: vocabulary[name].index)


_EMPTY = np.zeros((4, 0), np.int64)


def _join(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows, axis=1) if rows else _EMPTY

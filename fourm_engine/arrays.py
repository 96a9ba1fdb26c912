"""What an array of a modality must be, checked wherever one enters: reading, tokenizing, generating."""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm_plugins.modality import SampleError
from fourm_plugins.spec import ModalitySpec


def check_array(spec: ModalitySpec, array: Any) -> None:
    """Raise SampleError where an array is not what its spec says: kind, shape, dtype, finite, class ids in range.

    A plugin that lets such a value through would otherwise train the model on it, unseen."""
    expected = spec.array
    if expected.kind == "text":
        if not isinstance(array, str):
            raise SampleError(f"expected a text, found {type(array).__name__}")
        if len(array) > expected.max_characters:
            raise SampleError(f"{len(array)} characters, more than max_characters={expected.max_characters}")
        return
    if expected.kind == "feature_map":
        shape: tuple[int, ...] = (expected.channels, expected.height, expected.width)
    else:
        shape = (expected.height, expected.width) if expected.kind == "class_map" else (expected.size,)
    dtype = np.int64 if expected.kind == "class_map" else np.float32
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise SampleError(f"expected {np.dtype(dtype).name} {shape}, found {given}")
    if expected.kind == "class_map":
        low, high = int(array.min()), int(array.max())
        if low < -1 or high >= expected.classes:
            raise SampleError(f"class ids {low} to {high}, outside -1 to {expected.classes - 1}")
    elif expected.gaps:
        if np.isinf(array).any() or np.isnan(array).all():
            raise SampleError("holds infinite values, or nothing but NaN")
    elif not np.isfinite(array).all():
        raise SampleError(f"{int((~np.isfinite(array)).sum())} values are NaN or infinite")

"""Validates arrays against their spec wherever they enter: reading, tokenizing, generating, the conformance kit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fourm_plugins.counting import counted
from fourm_plugins.errors import SampleError
from fourm_plugins.spec import ClassMap, FeatureMap, ModalitySpec, Text


def check_array(spec: ModalitySpec, array: Any) -> None:
    """Raise SampleError if an array does not match its spec: kind, shape, dtype, finiteness, range of class ids.

    Without this check the model would silently train on such a value."""
    if wrong := misfit(spec, array):
        raise SampleError(wrong)


def misfit(spec: ModalitySpec, array: Any, *, decoded: bool = False) -> str:
    """What is wrong with an array of `spec`; '' if nothing is. An array that is `decoded` from arbitrary ids may be a
    longer text, or a map of gaps only."""
    if wrong := shape_misfit(spec, array):
        return wrong
    wanted = spec.array
    if isinstance(wanted, Text):
        if len(array) > wanted.max_characters and not decoded:
            return f"{len(array)} characters, more than max_characters={wanted.max_characters}"
        # From a file name or JSON that is not UTF-8; no tokenizer accepts it.
        half = re.search("[\ud800-\udfff]", array)
        return f"the text holds half a character, U+{ord(half.group()):04X}; save it as UTF-8" if half else ""
    if isinstance(wanted, ClassMap):
        low, high = int(array.min()), int(array.max())
        inside = low >= -1 and high < wanted.classes
        return "" if inside else f"class ids {low} to {high}, outside -1 to {wanted.classes - 1}"
    if wanted.gaps:
        unusable = np.isinf(array).any() or (np.isnan(array).all() and not decoded)
        return "holds infinite values, or nothing but NaN" if unusable else ""
    finite = np.isfinite(array)
    if finite.all():
        return ""
    return f"{counted(int((~finite).sum()), 'value is', 'values are')} NaN or infinite"


def shape_misfit(spec: ModalitySpec, array: Any) -> str:
    """What is wrong with the type, shape or dtype of an array of `spec`; '' if nothing is."""
    wanted = spec.array
    if isinstance(wanted, Text):
        return "" if isinstance(array, str) else f"expected a text, found {type(array).__name__}"
    dtype = np.dtype(np.int64 if isinstance(wanted, ClassMap) else np.float32)
    shape: tuple[int, ...]
    if isinstance(wanted, FeatureMap):
        shape = (wanted.channels, wanted.height, wanted.width)
    else:
        shape = (wanted.height, wanted.width) if isinstance(wanted, ClassMap) else (wanted.size,)
    if isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype:
        return ""
    given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    return f"expected {dtype} {shape}, found {given}"


def check_ids(spec: ModalitySpec, ids: np.ndarray) -> None:
    """Raise ValueError unless these can be the ids of one array, which are about to be decoded."""
    assert spec.token_space is not None
    size, shape = spec.token_space.size, (spec.layout.num_tokens,)
    if ids.shape != shape:
        raise ValueError(f"{spec.name}: tokens of shape {ids.shape}, expected {shape}")
    if ids.min() < 0 or ids.max() >= size:
        raise ValueError(f"{spec.name}: ids {ids.min()}…{ids.max()} are not in [0, {size})")


def as_float32(array: np.ndarray, most: float = float(np.finfo(np.float32).max)) -> np.ndarray:
    """Numbers as float32; NaN and infinity are kept. Raises SampleError for a finite number above `most`, by default
    any that would overflow to infinity."""
    if array.dtype.kind == "f" and float(np.finfo(array.dtype).max) <= most:
        return np.asarray(array, np.float32)
    beyond = np.isfinite(array) & (np.abs(np.asarray(array, np.float64)) > most)
    if beyond.any():
        row, column = np.argwhere(beyond)[0][:2]
        raise SampleError(f"{array[row, column].flat[0]:.3g} at row {row}, column {column} is beyond {most:g}")
    return np.asarray(array, np.float32)

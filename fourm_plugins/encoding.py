"""Ids from a tokenizer, checked wherever they enter: a plugin's mistake would otherwise train the model on nonsense, or
end a run in the midst of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm_plugins.counting import counted
from fourm_plugins.discovery import PluginError
from fourm_plugins.errors import SampleError
from fourm_plugins.tokenizer import Tokenizer


def encode(tokenizer: Tokenizer, arrays: Sequence[Any]) -> list[np.ndarray]:
    """`tokenizer.encode(arrays)`: int64 (tokens,) of each. Raises PluginError, which names the tokenizer, for whatever
    a plugin's raises but SampleError, and for ids of another number, shape, dtype or range."""
    try:
        ids = tokenizer.encode(arrays)
    except (SampleError, MemoryError, PluginError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):  # of a device, for which there is another remedy
            raise
        if type(tokenizer).__module__.startswith("fourm_engine."):  # a bug, whose traceback is wanted
            raise
        raise PluginError.of(f"{_named(tokenizer)} failed to encode", error, _REMEDY) from error
    if wrong := misfit(tokenizer, arrays, ids):
        raise PluginError(f"{_named(tokenizer)} gives {wrong}; {_REMEDY}")
    return ids


_REMEDY = "repair or upgrade its package, or choose another kind of tokenizer"


def _named(tokenizer: Tokenizer) -> str:
    cls = type(tokenizer)
    return f"the tokenizer {tokenizer.kind!r} of {tokenizer.spec.name} ({cls.__module__}:{cls.__qualname__})"


def misfit(tokenizer: Tokenizer, arrays: Sequence[Any], ids: Any) -> str:
    """What is wrong with the ids of `arrays`; '' if nothing is."""
    if not isinstance(ids, (list, tuple)) or len(ids) != len(arrays):
        found = counted(len(ids), "row") if isinstance(ids, (list, tuple)) else type(ids).__name__
        return f"{found} for {counted(len(arrays), 'array')}"
    layout = tokenizer.spec.layout
    for row in ids:
        if not isinstance(row, np.ndarray) or row.ndim != 1 or row.dtype != np.int64:
            found = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
            return f"{found}, not int64 (tokens,)"
        if layout.kind != "sequence" and len(row) != layout.num_tokens:
            return f"{counted(len(row), 'id')} a sample, not {layout.num_tokens}"
        if len(row) and not 0 <= int(row.min()) <= int(row.max()) < tokenizer.size:
            return f"ids {row.min()} to {row.max()}, outside its space of {tokenizer.size}"
    return ""

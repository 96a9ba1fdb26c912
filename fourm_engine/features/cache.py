"""Features of samples, cached on disk for later probes of the same samples.

In: an encoder and samples. Out: their features, from `folder/<digest>` if cached; the digest covers the encoder, its
inputs, and the names, sizes and times of the files. `pooled`, float32 (n, D); on request `tokens`, float16 (n, N, D),
and `valid`, bool (n, N). Stored as raw arrays, with their shapes in `features.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourm_engine.features.encoder import Encoder
from fourm_engine.features.samples import Samples, batches
from fourm_engine.files import replacing_folder
from fourm_engine.storage.mapped import MappedArray, MappedFile

FORMAT = 1
FACTS = "features.json"
_TYPES = {"pooled": np.float32, "tokens": np.float16, "valid": np.bool_}


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features of the usable samples. Those of single tokens, by far the largest, are memory-mapped."""

    names: list[str]
    arrays: dict[str, np.ndarray | MappedArray]
    computed: bool


def features_of(
    encoder: Encoder,
    samples: Samples,
    names: Sequence[str],
    folder: Path,
    *,
    tokens: bool,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> CachedFeatures:
    """Features of `names`, from the cache, or computed and cached. Raises ValueError if no sample is usable, and for
    non-finite features."""
    target = folder / _digest(encoder, samples, names, tokens)
    if (cached := _load(target)) is not None:
        return cached
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as temporary:
        _compute(encoder, samples, names, temporary, tokens, batch_size, progress)
    computed = _load(target)
    assert computed is not None
    return replace(computed, computed=True)


def _digest(encoder: Encoder, samples: Samples, names: Sequence[str], tokens: bool) -> str:
    digest = hashlib.sha256(f"{FORMAT} {encoder.fingerprint()} {sorted(encoder.inputs.items())} {tokens}".encode())
    for name in names:
        digest.update(f"\n{name}\0{samples.stamp(name)}".encode())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def _compute(
    encoder: Encoder,
    samples: Samples,
    names: Sequence[str],
    folder: Path,
    tokens: bool,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> None:
    length = sum(encoder.reader.modalities[m].spec.layout.num_tokens for m in {*encoder.inputs.values()})
    used, kinds = list[str](), ("pooled", "tokens", "valid") if tokens else ("pooled",)
    with ExitStack() as stack:
        files = {kind: stack.enter_context((folder / kind).open("wb")) for kind in kinds}
        for batch, done in batches(samples, names, batch_size):
            features = encoder.forward_features([sample for _, sample in batch])
            arrays: dict[str, Any] = {"pooled": features.pooled().float().cpu().numpy()}
            if not np.isfinite(arrays["pooled"]).all():
                raise ValueError(f"features of {batch[0][0]} are not finite; the model has diverged, use another")
            if tokens:
                short = length - features.valid.shape[1]
                arrays["tokens"] = np.pad(features.values.float().cpu().numpy(), ((0, 0), (0, short), (0, 0)))
                arrays["valid"] = np.pad(features.valid.cpu().numpy(), ((0, 0), (0, short)))
            for kind, file in files.items():
                file.write(np.ascontiguousarray(arrays[kind], _TYPES[kind]).tobytes())
            used += [name for name, _ in batch]
            progress(done, len(names))
    if not used:
        raise ValueError(f"none of {len(names):,} samples can be used; see the warnings")
    n, d = len(used), encoder.num_features
    shapes = {"pooled": [n, d], "tokens": [n, length, d], "valid": [n, length]}
    facts = {"format": FORMAT, "names": used, "shapes": {kind: shapes[kind] for kind in kinds}}
    (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def _load(folder: Path) -> CachedFeatures | None:
    """The cached features; None if they are missing or damaged and must be computed."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        arrays = dict[str, np.ndarray | MappedArray]()
        for kind, shape in facts["shapes"].items():
            count = int(np.prod([int(edge) for edge in shape]))
            if (folder / kind).stat().st_size != count * np.dtype(_TYPES[kind]).itemsize:
                return None
            arrays[kind] = _array(folder / kind, kind, tuple(shape))
        if not np.isfinite(arrays["pooled"]).all():
            return None
        names = [str(name) for name in facts["names"]]
        return CachedFeatures(names, arrays, False) if len(names) == len(arrays["pooled"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _array(path: Path, kind: str, shape: tuple[int, ...]) -> np.ndarray | MappedArray:
    if kind != "tokens":
        return np.fromfile(path, _TYPES[kind]).reshape(shape)
    again = "start again, and features are computed anew"
    return MappedArray(
        np.memmap(path, _TYPES[kind], "r", shape=shape), MappedFile(path, path.stat(), cut=again, changed=again)
    )

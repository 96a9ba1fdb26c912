"""Golden cases: numbers that the published implementation gave, and the checkpoints they came from.

In: the files of `tests/golden/cases` and of the folder that FOURM_GOLDEN names. Out: `Case`s, each with its kind as its
content tells it; checkpoints in the published format, rebuilt tensor by tensor from their keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor

from fourm_engine.nn.embeddings import sine_cosine_1d, sine_cosine_2d

HERE = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    stem: Path  # of <stem>.json and <stem>.safetensors
    kind: str
    content: Any  # of the JSON; None where there is none

    @property
    def name(self) -> str:
        return self.stem.name

    @property
    def config(self) -> dict[str, Any]:
        return self.content["config"]

    def data(self) -> dict[str, np.ndarray]:
        return load_file(self.stem.with_name(self.name + ".safetensors"))

    def tensors(self) -> dict[str, Tensor]:
        return {key: torch.from_numpy(value) for key, value in self.data().items()}


def kind_of(content: Any, keys: list[str]) -> str:
    """What a case is, by what is in it; `keys`: of its tensors."""
    if isinstance(content, list):
        texts = content and all({"text", "ids"} <= set(entry) for entry in content)
        return "wordpiece_ids" if texts else "unknown"
    if isinstance(content, dict):
        if "domains_in" in content.get("config", {}):
            return "fm"
        if content.get("model_type") in ("VQVAE", "DiVAE"):
            return str(content["model_type"]).lower()
        telling = {
            "caption_ids": "generate",
            "per_mixture_component": "budgets",
            "pairs": "span_masking",
            "stats": "sequence_mask_stats",
        }
        for key, kind in telling.items():
            if key in content:
                return kind
        if content and all(key in ("cosine", "linear") or key.startswith("temperature_") for key in content):
            return "decoding_schedules"
    if content is None and keys and all("zero_terminal_snr" in key for key in keys):
        return "noise_schedules"
    return "unknown"


def _find() -> Iterator[Case]:
    seen = set()
    for folder in (HERE, os.environ.get("FOURM_GOLDEN")):
        if not folder:
            continue
        for name in sorted({path.stem for path in Path(folder).iterdir() if path.suffix in (".json", ".safetensors")}):
            stem = Path(folder) / name
            text, tensors = stem.with_name(name + ".json"), stem.with_name(name + ".safetensors")
            content = json.loads(text.read_text("utf-8")) if text.exists() else None
            keys = []
            if tensors.exists():
                with safe_open(tensors, framework="np") as file:
                    keys = sorted(file.keys())
            # One case in both folders is tested once.
            digest = hashlib.sha256(b"".join(p.read_bytes() for p in (text, tensors) if p.exists())).digest()
            if digest not in seen:
                seen.add(digest)
                yield Case(stem, kind_of(content, keys), content)


CASES = list(_find())


def cases(kind: str) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`."""
    import pytest

    return [pytest.param(case, id=case.name) for case in CASES if case.kind == kind]


def model_case(case: Case) -> Case:
    """The model whose weights a generation used: in the same folder, or in another."""
    found = [c for c in CASES if c.kind == "fm" and c.name == case.content["model"]]
    assert found, f"{case.name} needs the case {case.content['model']}, which is not there"
    return min(found, key=lambda c: c.stem.parent != case.stem.parent)


# Checkpoints


def drawn(key: str, shape: list[int], kind: str, scale: float) -> np.ndarray:
    """float32 from a generator seeded by the key."""
    x = np.random.Generator(np.random.Philox(zlib.crc32(key.encode()))).standard_normal(shape, dtype=np.float32)
    if kind == "norm":
        return 1.0 + np.float64(scale).astype(np.float32) * x
    if kind == "unit":
        return x / np.linalg.norm(x, axis=-1, keepdims=True)
    assert kind == "normal", kind
    return np.float32(scale) * x


def state_dict(case: Case) -> dict[str, Tensor]:
    """Every tensor of the published checkpoint."""
    state: dict[str, Tensor] = {}
    for key, shape, kind, scale in case.content["tensors"]:
        state[key] = state[scale].clone() if kind == "same" else torch.from_numpy(drawn(key, shape, kind, scale))
    for key, shape, kind in case.content["fixed"]:
        state[key] = fixed(key, shape, kind)
    return state


def fixed(key: str, shape: list[int], kind: str) -> Tensor:
    if kind != "sine-cosine":
        return {"zeros": torch.zeros, "ones": torch.ones}[kind](shape)
    if len(shape) == 4:  # (1, D, h, w)
        _, width, h, w = shape
        return sine_cosine_2d(h, w, width).T.reshape(shape).contiguous()
    _, rows, width = shape
    edge = math.isqrt(rows)
    grid = edge**2 == rows  # sequences have 512 rows
    return (sine_cosine_2d(edge, edge, width) if grid else sine_cosine_1d(rows, width))[None]


def write_checkpoint(case: Case, path: Path, *, beside: bool = False) -> Path:
    """A published checkpoint: arguments in the metadata, or in a config.json `beside` it."""
    metadata = {} if beside else {key: str(value) for key, value in case.config.items()}
    save_file(state_dict(case), path, metadata={"format": "pt", **metadata})
    if beside:
        path.with_name("config.json").write_text(json.dumps(case.config))
    return path

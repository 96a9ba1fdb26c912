"""An index of features: a folder with `features.npy`, float32 (n, D), and `index.json`, the names of its n samples.

In: names and features, or such a folder. Out: the folder, which appears whole, and the nearest samples of a query.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.files import replacing_folder

if TYPE_CHECKING:
    from jaxtyping import Float

FORMAT = 1
DESCRIPTION, FEATURES = "index.json", "features.npy"
#: Rows that are compared with a query at a time.
_BLOCK = 1 << 16
_REMEDY = "make it again with `fourm embed`"


@dataclass(frozen=True, eq=False)
class Index:
    """`names[i]` has `features[i]`, made from the modalities `inputs` by the encoder with this `fingerprint`."""

    names: list[str]
    features: Float[np.ndarray, "n D"]
    inputs: list[str]
    fingerprint: str

    def save(self, folder: Path) -> None:
        """Write `folder`; an earlier index there is replaced. Raises ValueError where something else is there."""
        check_free(folder)
        facts = {"format": FORMAT, "inputs": self.inputs, "encoder": self.fingerprint, "samples": self.names}
        with replacing_folder(folder) as temporary:
            np.save(temporary / FEATURES, np.ascontiguousarray(self.features, np.float32))
            (temporary / DESCRIPTION).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Index:
        """The features are mapped, not read. Raises ValueError where there is no index, or a damaged one."""
        path = folder / DESCRIPTION
        if not path.is_file():
            raise ValueError(f"{folder}: no index of features, {DESCRIPTION} is not there; {_REMEDY}")
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({error}); {_REMEDY}") from None
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError(f"{path}: not an index of format {FORMAT}; {_REMEDY}")
        names, inputs, fingerprint = _strings(facts, "samples"), _strings(facts, "inputs"), facts.get("encoder")
        if names is None or inputs is None or not isinstance(fingerprint, str):
            raise ValueError(f"{path}: samples, inputs or encoder is damaged; {_REMEDY}")
        try:
            features = np.load(folder / FEATURES, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{folder / FEATURES}: missing or damaged ({why:.200}); {_REMEDY}") from None
        if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype != np.float32:
            raise ValueError(f"{folder / FEATURES}: not float32 (n, D); {_REMEDY}")
        if len(features) != len(names):
            raise ValueError(f"{folder}: {len(names)} names, but {len(features)} features; {_REMEDY}")
        return cls(names, features, inputs, fingerprint)

    def nearest(self, query: Float[np.ndarray, " D"], k: int) -> list[tuple[str, float]]:
        """(name, cosine) of the `k` samples nearest to `query`, the nearest first; all of them where there are fewer.
        Every sample is compared."""
        unit, scores = query / _length(query), np.empty(len(self.names), np.float32)
        for start in range(0, len(scores), _BLOCK):
            block = np.asarray(self.features[start : start + _BLOCK])
            scores[start : start + _BLOCK] = block @ unit / _length(block)
        return [(self.names[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]


def _strings(facts: dict[str, Any], key: str) -> list[str] | None:
    given = facts.get(key)
    return given if isinstance(given, list) and all(isinstance(one, str) for one in given) else None


def _length(features: np.ndarray) -> np.ndarray:
    return np.maximum(np.linalg.norm(features, axis=-1), np.finfo(np.float32).tiny)


def check_free(folder: Path) -> None:
    """Raise ValueError where `folder` holds something that is no index, which nothing may replace."""
    if folder.is_dir() and not (folder / DESCRIPTION).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than an index; choose another --out")

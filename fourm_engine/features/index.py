"""An index of features: a folder with `features.npy`, float32 (n, D), and `index.json`, the names of its n samples.

In: names and features, or such a folder. Out: the folder, written atomically, and the nearest samples of a query: exact
below `EXACT` samples; from there on by a graph of neighbours (`graph.usearch`), if the extra `search` is installed.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.files import replacing_folder
from fourm_engine.storage.mapped import MappedFile
from fourm_plugins.errors import check_permitted, one_line
from fourm_plugins.extras import optional
from fourm_plugins.hub import check_there

if TYPE_CHECKING:
    from jaxtyping import Float

log = logging.getLogger(__name__)
FORMAT = 2
DESCRIPTION, FEATURES, GRAPH = "index.json", "features.npy", "graph.usearch"
#: Number of samples from which a graph is made and used.
EXACT = 100_000
#: Rows compared with a query at a time.
_BLOCK = 1 << 16
_EXTRA = "fourm-engine[search]"
_REMEDY = "make it again with `fourm embed`"


@dataclass(frozen=True, eq=False)
class Index:
    """`names[i]` has `features[i]`, computed from the modalities `inputs` by the encoder with this `fingerprint`. A
    sample occurs once for each of its alternatives that counts. `predicted`: the modality whose features the model
    predicted, if any. `size`: {input: pixels} of inputs at another size than in training."""

    names: list[str]
    features: Float[np.ndarray, "n D"]
    inputs: list[str]
    fingerprint: str
    predicted: str | None = None
    size: dict[str, tuple[int, int]] | None = None
    graph: Path | None = None
    #: Of the file of the features, if they are mapped.
    mapped: MappedFile | None = field(default=None, repr=False)

    def save(self, folder: Path) -> None:
        """Write `folder`, replacing an earlier index. Raises ValueError if it holds something else."""
        check_free(folder)
        facts = {"format": FORMAT, "inputs": self.inputs, "encoder": self.fingerprint, "samples": self.names}
        facts |= {"predicted": self.predicted, "size": self.size}
        graph = _usearch(self.features.shape[1]) if len(self.names) >= EXACT else None
        with replacing_folder(folder) as temporary:
            with open(temporary / FEATURES, "wb") as file:
                # Not into the file itself: NumPy would write past Python, and miss a full disk.
                target: Any = SimpleNamespace(write=file.write)
                np.save(target, np.ascontiguousarray(self.features, np.float32))
            if graph is not None:
                graph.add(np.arange(len(self.names)), np.ascontiguousarray(self.features, np.float32))
                graph.save(str(temporary / GRAPH))
            (temporary / DESCRIPTION).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Load an index; features are memory-mapped. Raises ValueError if there is no index, or a damaged one."""
        check_there(folder)
        path = folder / DESCRIPTION
        if not path.is_file():
            raise ValueError(f"{folder}: no index of features, {DESCRIPTION} is not there; {_REMEDY}")
        for file in (path, folder / FEATURES):
            check_permitted(file)
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
            why = getattr(error, "strerror", None) or one_line(error)
            raise ValueError(f"{folder / FEATURES}: missing or damaged ({why:.200}); {_REMEDY}") from None
        if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype != np.float32:
            raise ValueError(f"{folder / FEATURES}: not float32 (n, D); {_REMEDY}")
        if len(features) != len(names):
            raise ValueError(f"{folder}: {len(names)} names, but {len(features)} features; {_REMEDY}")
        predicted, size = facts.get("predicted"), facts.get("size")
        if not (isinstance(predicted, (str, type(None))) and (size is None or _are_sizes(size))):
            raise ValueError(f"{path}: predicted or size is damaged; {_REMEDY}")
        graph = folder / GRAPH if (folder / GRAPH).is_file() else None
        sizes = None if size is None else {name: (edges[0], edges[1]) for name, edges in size.items()}
        mapped = MappedFile(folder / FEATURES, (folder / FEATURES).stat(), cut=_REMEDY)
        return cls(names, features, inputs, fingerprint, predicted, sizes, graph, mapped)

    def nearest(self, query: Float[np.ndarray, " D"], k: int) -> list[tuple[str, float]]:
        """(name, cosine similarity) of the `k` samples nearest to `query` by one of their features, nearest first; all
        samples if there are fewer. Compares every feature, unless there is a graph."""
        most = max(Counter(self.names).values(), default=1)
        if self.graph is not None and (near := self._near(query, k * most)) is not None:
            cosines = unit(self._rows(near)) @ unit(query)
        else:
            near, cosines = np.arange(len(self.names)), np.empty(len(self.names), np.float32)
            for rows in self._blocks():
                cosines[rows] = unit(self._rows(rows)) @ unit(query)
        order = np.argsort(-cosines, kind="stable")[: k * most]
        nearest = dict[str, float]()
        for i in order.tolist():
            nearest.setdefault(self.names[near[i]], float(cosines[i]))
        return list(nearest.items())[:k]

    def read(self) -> Float[np.ndarray, "n D"]:
        """All features, in memory. Raises ValueError if their file has changed since `load`, or is damaged."""
        features = np.empty(self.features.shape, np.float32)
        for rows in self._blocks():
            features[rows] = self._rows(rows)
        return features

    def _blocks(self) -> Iterator[slice]:
        return (slice(start, start + _BLOCK) for start in range(0, len(self.names), _BLOCK))

    def _rows(self, rows: slice | np.ndarray) -> np.ndarray:
        if self.mapped is not None:
            self.mapped.check()
        features = np.asarray(self.features[rows])
        if not np.isfinite(features).all():
            where = f"{self.mapped.path}: " if self.mapped is not None else ""
            raise ValueError(f"{where}features that are not finite; {_REMEDY}")
        return features

    def _near(self, query: np.ndarray, k: int) -> np.ndarray | None:
        """Rows from the graph; None if it cannot be used."""
        graph = _usearch(self.features.shape[1])
        if graph is None:
            return None
        try:
            graph.view(str(self.graph))
        except Exception as error:  # of any type
            raise ValueError(f"{self.graph}: damaged ({one_line(error):.200}); {_REMEDY}") from None
        if len(graph) != len(self.names) or graph.ndim != len(query):
            raise ValueError(f"{self.graph}: of other samples than {DESCRIPTION}; {_REMEDY}")
        matches: Any = graph.search(np.ascontiguousarray(query, np.float32), min(k, len(graph)))
        rows = np.asarray(matches.keys, np.int64)
        if ((rows < 0) | (rows >= len(self.names))).any():
            raise ValueError(f"{self.graph}: of other samples than {DESCRIPTION}; {_REMEDY}")
        return rows


def _usearch(width: int) -> Any:
    """An empty usearch graph; None, with a line in the log, if usearch is not installed."""
    try:
        module = optional("usearch.index", what=f"a graph of {EXACT:,} samples and more needs", install=_EXTRA)
    except ValueError as error:
        log.warning("every sample is compared; %s", error)
        return None
    return module.Index(ndim=width, metric="cos", dtype="f32")


def _strings(facts: dict[str, Any], key: str) -> list[str] | None:
    given = facts.get(key)
    return given if isinstance(given, list) and all(isinstance(text, str) for text in given) else None


def _are_sizes(given: Any) -> bool:
    """{name: [height, width]}."""
    pairs: list[Any] = list(given.values()) if isinstance(given, dict) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return False
    return all(type(edge) is int and 0 < edge < 1 << 16 for pair in pairs for edge in pair)


def unit(features: np.ndarray) -> np.ndarray:
    """The features (…, D) at length 1; 0 stays 0."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def check_free(folder: Path) -> None:
    """Raise ValueError if `folder` holds something other than an index."""
    if folder.is_dir() and not (folder / DESCRIPTION).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something other than an index; choose another --out")

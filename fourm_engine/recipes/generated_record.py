"""The record of a folder of generated files, so that an interrupted command continues and results are never mixed.

In: the settings of a command, and each finished sample. Out: `.generated/` in the folder, which readers skip:
`settings.json`, and a file of lines for each part of the samples, {"name", "seed", "stamp", "input"}.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.features.encoder import digest_weights
from fourm_engine.files import read_object, write_atomically, writing
from fourm_engine.generate.guidance import GuideModel
from fourm_engine.identity import Difference, compare, refuse

FOLDER, SETTINGS, FORMAT = ".generated", "settings.json", 1
MAX_BYTES, MAX_LINE = 1 << 20, 1 << 14


def digest_of_model(model: GuideModel) -> str:
    """16 hex digits of everything that affects what a model generates: weights, tokenizers, settings of its
    modalities."""
    identity = {name: modality.identity() for name, modality in sorted(model.modalities.items())}
    tokenizers = {name: tokenizer.fingerprint for name, tokenizer in sorted(model.tokenizers.items())}
    digest = hashlib.sha256(json.dumps([identity, tokenizers], sort_keys=True, default=str).encode())
    digest_weights(model.network, digest)
    return digest.hexdigest()[:16]


def refuse_recorded(out: Path) -> None:
    """Raise ValueError for a folder of recorded results, or a modality's folder in it, where another file would look
    like a sample."""
    for folder in (Path(out), Path(out).resolve().parent):
        if (folder / FOLDER / SETTINGS).is_file():
            raise ValueError(f"--out {out}: {folder} is a data set that fourm generate wrote; choose another folder")


class Record:
    """The record of `out`, written by part `part` of `parts`. Takes 24 bytes of memory per existing sample."""

    def __init__(self, out: Path, settings: Mapping[str, Any], made: Iterable[Path], *, part: int, parts: int) -> None:
        """`made`: folders that results are written to. Raises ValueError if existing files were generated with other
        settings, or have no record."""
        folder = Path(out) / FOLDER
        settings = json.loads(json.dumps({"format": FORMAT, **settings}))
        if (path := folder / SETTINGS).is_file():
            made_by = read_object(path, most=MAX_BYTES, what="how files were made", remedy="choose another --out")
            differences = [Difference(key, *pair) for key, pair in compare(made_by, settings).items()]
            refuse(differences, where=path, remedy="choose another --out")
        else:
            for one in made:
                if one.is_dir() and any(not file.name.startswith(".") for file in one.iterdir()):
                    raise ValueError(f"{one}: holds files that this command did not write; choose another --out")
            write_atomically(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        flat = array("Q")
        for file in sorted(folder.glob("made-*.jsonl")):
            for row in _rows(file):
                flat.extend(row)
        known = np.frombuffer(flat, np.uint64).reshape(-1, 3)
        # If a sample was generated twice, the last line counts.
        self._known = known[len(known) - 1 - np.unique(known[::-1, 0], return_index=True)[1]]
        self._path = folder / f"made-{part:05d}-of-{parts:05d}.jsonl"
        if self._path.is_file() and not self._path.read_bytes().endswith(b"\n"):
            with writing(self._path), open(self._path, "ab") as end:
                end.write(b"\n")  # terminates a line that a killed process left unfinished

    def stamp_is(self, name: str, stamp: str) -> bool:
        """Whether a sample was generated from files with this stamp."""
        row = self._row(name)
        return row is not None and int(row[1]) == hash_of(stamp)

    def input_is(self, name: str, digest: str) -> bool:
        """Whether a sample was generated from this content."""
        row = self._row(name)
        return row is not None and int(row[2]) == hash_of(digest)

    def add(self, name: str, *, seed: int, stamp: str, digest: str) -> None:
        """Record that all files of a sample are complete."""
        line = {"name": name, "seed": seed, "stamp": f"{hash_of(stamp):016x}", "input": f"{hash_of(digest):016x}"}
        with writing(self._path), open(self._path, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    def _row(self, name: str) -> np.ndarray | None:
        at = int(np.searchsorted(self._known[:, 0], np.uint64(hash_of(name))))
        return self._known[at] if at < len(self._known) and int(self._known[at, 0]) == hash_of(name) else None


def _rows(path: Path) -> Iterable[tuple[int, int, int]]:
    """Hashes of a file's lines. The unfinished line of a killed process is ignored, so its sample is generated
    again."""
    with open(path, "rb") as file:
        for line in iter(lambda: file.readline(MAX_LINE), b""):
            try:
                entry = json.loads(line)
                yield hash_of(str(entry["name"])), int(entry["stamp"], 16), int(entry["input"], 16)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")

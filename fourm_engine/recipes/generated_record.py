"""The record of a folder of generated files, so that an interrupted command continues and results are never mixed.

In: the settings of a command, and each finished sample. Out: `.generated/` in the folder, which readers skip:
`settings.json`, and a file of lines for each part of the samples, {"name", "stamp", "input", …}.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fourm_engine.features.encoder import digest_weights
from fourm_engine.files import read_object, write_atomically, writing
from fourm_engine.generate.guidance import GuideModel
from fourm_engine.identity import Difference, compare, refuse
from fourm_engine.train import run_record
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

FOLDER, SETTINGS, FORMAT = ".generated", "settings.json", 1
MAX_BYTES, MAX_LINE = 1 << 20, 1 << 20
#: Bits of a line's position that are its offset in its file; the others are the number of the file.
_OFFSET = 44


def digest_of_model(model: GuideModel) -> str:
    """16 hex digits of everything that affects what a model generates."""
    return digest_of(model.modalities, model.tokenizers, model.network)


def digest_of(
    modalities: Mapping[str, Modality], tokenizers: Mapping[str, Tokenizer], network: nn.Module, *facts: Any
) -> str:
    """16 hex digits of the settings of modalities, tokenizers, other `facts` (JSON) and weights."""
    identity = {name: modality.identity() for name, modality in sorted(modalities.items())}
    prints = {name: tokenizer.fingerprint for name, tokenizer in sorted(tokenizers.items())}
    digest = hashlib.sha256(json.dumps([identity, prints, *facts], sort_keys=True, default=str).encode())
    digest_weights(network, digest)
    return digest.hexdigest()[:16]


def refuse_recorded(out: Path) -> None:
    """Raise ValueError for a folder of recorded results, or a modality's folder in it, where another file would look
    like a sample."""
    for folder in (Path(out), Path(out).resolve().parent):
        if (folder / FOLDER / SETTINGS).is_file():
            raise ValueError(f"--out {out}: {folder} holds the results of many samples; choose another folder")


class Record:
    """The record of `out`, written by part `part` of `parts`. Takes 32 bytes of memory per existing sample."""

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
            if (Path(out) / run_record.NAME).is_file():
                raise ValueError(f"{out}: the folder of a run; choose another --out")
            for one in made:
                if one.is_dir() and any(not file.name.startswith(".") for file in one.iterdir()):
                    raise ValueError(f"{one}: holds files that this command did not write; choose another --out")
            write_atomically(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        self._path = folder / f"made-{part:05d}-of-{parts:05d}.jsonl"
        if self._path.is_file() and not self._path.read_bytes().endswith(b"\n"):
            with writing(self._path), open(self._path, "ab") as end:
                end.write(b"\n")  # terminates a line that a killed process left unfinished
        self.read()

    def read(self) -> None:
        """Read what all parts have recorded so far."""
        self._files, flat = sorted(self._path.parent.glob("made-*.jsonl")), array("Q")
        for number, file in enumerate(self._files):
            for offset, entry in _entries(file):
                hashes = hash_of(entry["name"]), int(entry["stamp"], 16), int(entry["input"], 16)
                flat.extend((*hashes, number << _OFFSET | offset))
        known = np.frombuffer(flat, np.uint64).reshape(-1, 4)
        # If a sample was generated twice, the last line counts.
        self._known = known[len(known) - 1 - np.unique(known[::-1, 0], return_index=True)[1]]

    def stamp_is(self, name: str, stamp: str) -> bool:
        """Whether a sample was generated from files with this stamp."""
        row = self._row(name)
        return row is not None and int(row[1]) == hash_of(stamp)

    def input_is(self, name: str, digest: str) -> bool:
        """Whether a sample was generated from this content."""
        row = self._row(name)
        return row is not None and int(row[2]) == hash_of(digest)

    def facts(self, name: str) -> dict[str, Any] | None:
        """The `facts` of a sample when the record was read; None if it was not there."""
        if (row := self._row(name)) is None:
            return None
        with open(self._files[int(row[3]) >> _OFFSET], "rb") as file:
            file.seek(int(row[3]) & ((1 << _OFFSET) - 1))
            entry = json.loads(file.readline(MAX_LINE))
        return {key: value for key, value in entry.items() if key not in ("name", "stamp", "input")}

    def add(self, name: str, *, stamp: str, digest: str, facts: Mapping[str, Any]) -> None:
        """Record that all files of a sample are complete."""
        line = {"name": name, **facts, "stamp": f"{hash_of(stamp):016x}", "input": f"{hash_of(digest):016x}"}
        with writing(self._path), open(self._path, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    def _row(self, name: str) -> np.ndarray | None:
        at = int(np.searchsorted(self._known[:, 0], np.uint64(hash_of(name))))
        return self._known[at] if at < len(self._known) and int(self._known[at, 0]) == hash_of(name) else None


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset, line) of a file. The unfinished line of a killed process is ignored, so its sample is generated
    again."""
    offset = 0
    with open(path, "rb") as file:
        for line in iter(lambda: file.readline(MAX_LINE), b""):
            try:
                entry = json.loads(line)
                hashes = int(entry["stamp"], 16), int(entry["input"], 16)
                if isinstance(entry["name"], str) and min(hashes) >= 0 and max(hashes) < 1 << 64:
                    yield offset, entry
            except (ValueError, KeyError, TypeError, RecursionError):
                pass
            offset += len(line)


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")

"""Data sets of the toy modalities in every layout, for tests of how they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fourm_engine.data.raw.aligned import AlignedData
from tests.fakes import fake_modalities, write_tar

MODALITIES = fake_modalities(["a", "b", "words"])
EXTENSIONS = {"a": "npy", "b": "npy", "words": "txt"}
OLD = 1_000_000_000
Wanted = Mapping[str, Mapping[str, bytes]]  # sample -> modality -> content


def write_layout(root: Path, data: Wanted, layout: str, *, shards: int = 2) -> None:
    """`layout`: "loose", "tars" (of one modality), "webdataset" (of all), or "mixed", a part of each."""
    parts: dict[Path, dict[str, bytes]] = {}
    for number, (name, contents) in enumerate(sorted(data.items())):
        how = ("loose", "tars", "webdataset")[number % 3] if layout == "mixed" else layout
        for modality, content in contents.items():
            extension, shard = EXTENSIONS[modality], f"shard-{number % shards}.tar"
            if how == "loose":
                path = root / modality / f"{name}.{extension}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            elif how == "tars":
                parts.setdefault(root / modality / shard, {})[f"{name}.{extension}"] = content
            else:
                parts.setdefault(root / shard, {})[f"{name}.{modality}.{extension}"] = content
    for path, files in parts.items():
        write_tar(path, files)
    settle(root)


def settle(root: Path) -> None:
    """Make everything look old, so that times prove that nothing has changed."""
    for parent, folders, files in os.walk(root):
        for name in [*folders, *files]:
            os.utime(Path(parent, name), (OLD, OLD))


def held(root: Path | str, **options: object) -> dict[str, dict[str, dict[str, bytes]]]:
    """Sample -> modality -> {extension: content}."""
    data = AlignedData(root, MODALITIES, **options)
    return {name: {m: data.files(name, m) for m in sorted(data.has(name))} for name in data.names}


def expected(data: Wanted) -> dict[str, dict[str, dict[str, bytes]]]:
    return {n: {m: {EXTENSIONS[m]: c} for m, c in sorted(files.items())} for n, files in sorted(data.items()) if files}

"""Writes tar shards in the format of WebDataset, atomically."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fourm_engine.files import replacing_file

Samples = Iterable[tuple[str, Mapping[str, bytes]]]


def write_shard(path: Path, samples: Samples) -> None:
    """Write (key, {extension: content}) as members `<key>.<extension>`. The same samples give the same bytes. Raises
    CannotWrite."""
    from webdataset.writer import TarWriter  # imports torch

    options = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT", "mode": 0o644, "user": "", "group": ""}
    with replacing_file(path) as temporary, open(temporary, "wb") as file, TarWriter(file, **options) as tar:
        for key, files in samples:
            tar.write({"__key__": key, **files})

"""Raw samples of tar shards, for benchmarks on the demo."""

from __future__ import annotations

import tarfile
from pathlib import Path


def read(folder: Path, count: int) -> dict[str, dict[str, bytes]]:
    """Sample -> extension -> content, of the first samples of a modality's shards."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                name, _, extension = member.name.partition(".")
                if name not in samples and len(samples) == count:
                    return samples
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(name, {})[extension] = file.read()
    return samples

"""Implements `fourm export`: exports the encoder of a run as a file for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fourm_engine.features.encoder import encoder
from fourm_engine.features.export import FileFacts, Format
from fourm_engine.features.export import export as write
from fourm_engine.features.resizing import Size
from fourm_engine.lock import at_work
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.progress import PrintFn, choose_threads, print_line


def export(
    run: str | Path,
    inputs: Sequence[str],
    out: Path,
    *,
    format: Format = "onnx",
    size: Size | Mapping[str, Size] | None = None,
    print_fn: PrintFn = print_line,
) -> FileFacts:
    """Write the encoder of a run, model or Hub id to the file `out`, and report its inputs and outputs.

    Raises ValueError as `fourm_engine.features.encoder.encoder` and `fourm_engine.features.export.export` do."""
    with at_work(Path(out), replaced=True):
        choose_threads("cpu")
        network = encoder(run, inputs, size=size, device="cpu", manager=manager_of_run(run))
        facts, difference = write(network, Path(out), format)
    for name, one in facts.inputs.items():
        print_fn(f"in:  {name} {one['dtype']} ({', '.join(map(str, one['shape']))})")
    for name, shape in facts.outputs.items():
        print_fn(f"out: {name} ({', '.join(map(str, shape))})")
    print_fn(f"{out}: {Path(out).stat().st_size / 1e6:.1f} MB; differs from the encoder by at most {difference:.1e}")
    return facts

"""Implements `fourm export`: exports the encoder of a run as a file for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fourm_engine.features.export import FileFacts, Format
from fourm_engine.features.export import export as write
from fourm_engine.features.resizing import Size
from fourm_engine.lock import at_work
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.progress import PrintFn, choose_threads, print_line
from fourm_engine.transfer.encoder import encoder, refuse_size
from fourm_engine.transfer.export import head_of
from fourm_engine.transfer.model import load_head
from fourm_engine.transfer.task_folder import is_task


def export(
    run: str | Path,
    inputs: Sequence[str],
    out: Path,
    *,
    format: Format = "onnx",
    size: Size | Mapping[str, Size] | None = None,
    print_fn: PrintFn = print_line,
) -> FileFacts:
    """Write the encoder of a run, model or Hub id, with the head if it is of a task, to the file `out`, and report its
    inputs and outputs.

    Raises ValueError as `fourm_engine.transfer.encoder.encoder` and `fourm_engine.features.export.export` do, and for a
    detection."""
    with at_work(Path(out), replaced=True):
        choose_threads("cpu")
        manager, head = manager_of_run(run), None
        if is_task(str(run)):
            refuse_size(run, size)
            model = load_head(run, device="cpu", manager=manager)
            network, head = model.encoder(inputs), head_of(model, inputs)
        else:
            network = encoder(run, inputs, size=size, device="cpu", manager=manager)
        facts, difference = write(network, Path(out), format, head)
    for name, one in facts.inputs.items():
        print_fn(f"in:  {name} {one['dtype']} ({', '.join(map(str, one['shape']))})")
    for name, shape in facts.outputs.items():
        print_fn(f"out: {name} ({', '.join(map(str, shape))})")
    print_fn(f"{out}: {Path(out).stat().st_size / 1e6:.1f} MB; differs from the model by at most {difference:.1e}")
    return facts

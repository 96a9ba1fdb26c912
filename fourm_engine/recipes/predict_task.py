"""Implements `fourm predict`: predicts with a model that was fine-tuned on a task."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fourm_engine.data.raw.names import say as remark
from fourm_engine.drawing import png
from fourm_engine.files import write_atomically
from fourm_engine.lock import at_work
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.generate import write
from fourm_engine.recipes.generated_record import refuse_recorded
from fourm_engine.recipes.progress import PrintFn, choose_threads, print_line
from fourm_engine.transfer.answers import Classes, Detections, Embedding
from fourm_engine.transfer.model import TaskModel, load_head
from fourm_engine.transfer.retrieval import Retrieval

#: Objects with a higher score are drawn.
SHOWN = 0.3


def predict(
    run: str | Path,
    sample: Mapping[str, Any],
    *,
    out: Path | None = None,
    k: int = 5,
    device: str | None = None,
    print_fn: PrintFn = print_line,
) -> None:
    """Report the `k` most probable classes of a sample with probabilities, or the `k` highest-scoring objects with
    boxes (x0, y0, x1, y1 in [0, 1]). Writes these, or the predicted map, to the folder `out`, with a picture to view.

    Raises ValueError if there is no trained head, if a map is predicted without `out`, and for an invalid sample."""
    if out is not None:
        refuse_recorded(out)
    choose_threads(device)
    model = load_head(run, device=device, manager=manager_of_run(run))
    if model.objective.modality is not None and out is None:
        raise ValueError(f"{run} predicts a map of {model.objective.modality.name!r}; name a folder for it: --out")
    refuse_embeddings(run, model)
    answer = model.predict(sample)
    note_missing(model, [model.reader.instance(name, raw=True).name for name in sample])
    if isinstance(answer, Classes):
        for name, share in answer.likeliest(k):
            print_fn(f"{share:.4f} {name}")
        return
    if isinstance(answer, Detections):
        for score, label, box in zip(answer.scores[:k], answer.labels[:k], answer.boxes[:k]):
            print_fn(f"{score:.4f} {label} {' '.join(f'{x:.4f}' for x in box)}")
        if not len(answer):
            print_fn("no object")
        if out is not None:
            with at_work(out):
                for path in _write_objects(answer, model.render(sample), out):
                    print_fn(str(path))
        return
    assert out is not None
    assert not isinstance(answer, Embedding)
    with at_work(out):
        for path in write(answer, out, answer.modality.name):
            print_fn(str(path))


def refuse_embeddings(run: str | Path, model: TaskModel) -> None:
    """Raise ValueError for a model of a retrieval task."""
    if isinstance(model.objective, Retrieval):
        raise ValueError(f"{run} makes embeddings, for search: fourm embed {run} DATA --input NAME --out INDEX")


def note_missing(model: TaskModel, given: Collection[str]) -> None:
    """Remark on inputs that are not among the `given` ones, if training dropped none (`task.modality_dropout`)."""
    missing = [name for name in model.inputs if name not in given]
    if missing and not model.objective.identity().get("task.modality_dropout"):
        remark(
            f"predicts without {', '.join(missing)}, which training gave beside {', '.join(given)}: expect worse "
            f"results; give them, too (fourm generate can make them), or train with task.modality_dropout"
        )


def _write_objects(answer: Detections, picture: Any, out: Path) -> list[Path]:
    """Write all objects, and the picture with those that score above `SHOWN`."""
    files = {"objects.json": json.dumps(answer.to_json(), indent=1).encode()}
    if picture is not None:
        files["objects.png"] = png(answer.threshold(SHOWN).draw_on(picture))
    for name, content in files.items():
        write_atomically(out / name, content)
    return [out / name for name in files]

"""Pictures during training: predictions for a few held-out samples, each above the truth.

In: the held-out files of a run and its evaluation tasks. Out: a callable that draws a model's predictions to a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.drawing import Cell, png, sheet
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.pictures import contact_rows
from fourm_engine.evaluate.predict import Predictor
from fourm_engine.evaluate.samples import load_samples
from fourm_engine.evaluate.tasks import resolve_tasks
from fourm_engine.files import write_atomically
from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import rank, together

#: Tasks on one picture, the first of the config.
MAX_TASKS = 4


class HeldOutPictures:
    """Draws predictions for the same `number` held-out samples with the same seeds each time, for the first tasks of
    `config` (by default from each single input to everything). Raises ValueError if there are no held-out files, or no
    task fits the modalities."""

    def __init__(self, modalities: Modalities, data: DataConfig, config: EvaluateConfig, number: int) -> None:
        if data.val is None:
            raise ValueError("train.pictures_every needs held-out files; set data.val, or leave it out")
        files = AlignedData.from_config(modalities, data, training=False)
        self.samples = load_samples(files, data, samples=number, seed=config.seed)
        self.config = config.model_copy(update={"pictures": number})
        tasks, notes = resolve_tasks(config.tasks, modalities)
        self.tasks = [task for task in tasks if self.samples.with_modalities(task.inputs.values())][:MAX_TASKS]
        if not self.tasks:
            raise ValueError("\n".join(["train.pictures_every: no held-out sample has the inputs of a task", *notes]))

    def __call__(self, model: FourM, path: Path) -> None:
        """Writes a PNG. Raises CannotWrite."""
        predictor = Predictor(model, self.samples, {}, self.config)
        rows: list[tuple[str, Sequence[Cell | None]]] = []
        for task in self.tasks:
            rows += [(task.name, [None]), *contact_rows(predictor.pictures(task))]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png(sheet(rows, cell=128)))


def pictures_of(
    train: TrainConfig, modalities: Modalities, data: DataConfig, evaluate: EvaluateConfig
) -> Callable[[FourM, Path], None] | None:
    """The callable that draws a run's pictures, in its first process; None if it draws none. Every process must call
    this."""
    if train.pictures_every is None:
        return None
    make = partial(HeldOutPictures, modalities, data, evaluate, train.pictures)
    return together(lambda: make() if rank() == 0 else None) or (lambda model, path: None)

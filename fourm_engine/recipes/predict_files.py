"""Predict for many samples: `fourm predict` with folders or a data set.

In: `SampleInputs`, a model of a task. Out: maps in `out/<source of the target>/<sample>.<extension>`, objects in
`out/objects/<sample>.json`, or `out/classes.csv`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm_engine.data.views import view_of
from fourm_engine.files import replacing_file, write_atomically
from fourm_engine.recipes.files_job import FilesJob
from fourm_engine.recipes.generate_reading import Read, Reader, encoded
from fourm_engine.recipes.generated_record import Record, digest_of
from fourm_engine.transfer.answers import Answer, Classes, DenseMap, Detections
from fourm_engine.transfer.detection import Detection
from fourm_engine.transfer.model import TaskModel
from fourm_plugins import calls

#: Folder of the objects of a detection, and the table of a classification.
OBJECTS, CLASSES = "objects", "classes.csv"


@dataclass(kw_only=True)
class PredictJob(FilesJob):
    """Predicts what `model` was trained for."""

    model: TaskModel
    #: Number of classes of a sample in the table.
    k: int = 5

    @property
    def what(self) -> str:
        """What is predicted, for messages."""
        objective = self.model.objective
        if objective.modality is not None:
            return objective.modality.name
        return "objects" if isinstance(objective, Detection) else "classes"

    @property
    def _is_table(self) -> bool:
        return self.what == "classes"

    def make_settings(self) -> dict[str, Any]:
        model = self.model
        digest = digest_of(model.inputs, model.tokenizers, model.network, model.objective.identity())
        return {"head": digest, "--input": sorted(self.shown_as), **({"-k": self.k} if self._is_table else {})}

    def folders(self) -> list[Path]:
        return [] if self._is_table else [self._folder]

    @property
    def _folder(self) -> Path:
        target = self.model.objective.modality
        return self.out / (OBJECTS if target is None else target.spec.source)

    def reader(self) -> Reader:
        return Reader(self.inputs, self.shown_as, self.model.reader.drawer)

    def compute(self, batch: Mapping[str, Read]) -> dict[str, Answer]:
        inputs = encoded(list(batch.values()), self.model.tokenizers, self.model.inputs)
        answers = dict(zip(batch, self.model.predict_batch(inputs), strict=True))
        if isinstance(objective := self.model.objective, Detection):
            for name, answer in answers.items():  # boxes of the crop that was read
                assert isinstance(answer, Detections)
                answers[name] = answer.uncrop(view_of(objective.picture.spec, batch[name].views, 0))
        return answers

    def exists(self, name: str) -> bool:
        target = self.model.objective.modality
        extensions = ("json",) if target is None else target.spec.extensions
        return self._is_table or any((self._folder / f"{name}.{extension}").is_file() for extension in extensions)

    def write(self, name: str, read: Read, result: Answer) -> dict[str, Any]:
        if isinstance(result, Classes):
            return {"classes": [[label, round(share, 6)] for label, share in result.likeliest(self.k)]}
        if isinstance(result, DenseMap):
            files = calls.write(result.modality, result.value)
        else:
            assert isinstance(result, Detections)
            files = {"json": json.dumps(result.to_json()).encode()}
        for extension, content in files.items():
            write_atomically(self._folder / f"{name}.{extension}", content)
        return {}

    def finish(self) -> Path | None:
        """Write the table of all samples that any process has recorded; its path, or None for another task."""
        if not self._is_table:
            return None
        record = Record(self.out, self.settings, (), part=self.part, parts=self.parts)
        path = self.out / CLASSES
        with replacing_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["name", "label", "probability"])
            for name in self.inputs.names:
                table.writerows([name, *row] for row in (record.facts(name) or {}).get("classes", ()))
        return path

"""TaskModel: an encoder with a trained head, from values to predictions.

model = fm.load_head("runs/flowers")
model.predict({given: "photo.png"}).likeliest(3)      # of a classification: (class, probability)
model.predict({given: "photo.png"}).render()          # of a dense task: a picture of the map
model.predict({given: "photo.png"}).boxes             # of a detection, beside .labels and .scores
model.predict({given: "photo.png"}).vector            # of a retrieval: an embedding
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm_engine.data.views import SampleViews, view_of
from fourm_engine.device import choose_device
from fourm_engine.features.encoder import Encoder
from fourm_engine.generate.inputs import InputReader
from fourm_engine.generate.sample import Sample
from fourm_engine.generate.validation import inputs_of, no_such
from fourm_engine.masking.pack import Shown, ordered, pack_inputs
from fourm_engine.modalities import Modalities
from fourm_engine.nn.transformer import Transformer
from fourm_engine.transfer.answers import Answer, Detections
from fourm_engine.transfer.detection import Detection
from fourm_engine.transfer.network import TaskBatch, TaskNetwork
from fourm_engine.transfer.objective import Objective
from fourm_engine.transfer.task_folder import load, locate
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import calls
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Backbone:
    """A task's encoder, as `Encoder` wants it."""

    reader: InputReader
    vocabulary: Vocabulary
    tokenizers: Mapping[str, Tokenizer]
    network: Transformer


class TaskModel:
    """An encoder with a trained head, returned by `load_head`. `inputs`: {name: `Modality`} of the encoder's inputs."""

    def __init__(
        self,
        network: TaskNetwork,
        objective: Objective,
        inputs: Modalities,
        tokenizers: Mapping[str, Tokenizer],
        vocabulary: Vocabulary,
    ) -> None:
        self.network, self.objective, self.inputs, self.vocabulary = network, objective, inputs, vocabulary
        self.tokenizers = dict(tokenizers)
        self.reader = InputReader(inputs, tokenizers, self._find)

    def __repr__(self) -> str:
        what = f"{self.objective.kind} of {', '.join(self.inputs)}: {self.objective.describe()}"
        return f"<TaskModel: {what}, on {self.device}>"

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> TaskModel:
        """Move the network and the tokenizers to `device`; returns self. Raises ValueError if it does not exist."""
        device = choose_device(device)
        self.network.to(device)
        for tokenizer in self.tokenizers.values():
            tokenizer.to(device)
        return self

    def encoder(self, inputs: Iterable[str] | str | None = None) -> Encoder:
        """The encoder below the head, sharing its weights; see `fm.encoder`."""
        return Encoder(_Backbone(self.reader, self.vocabulary, self.tokenizers, self.network.backbone), inputs)

    def predict(self, sample: Mapping[str, Any]) -> Answer:
        """The prediction for one sample, {name of an input: value}, with values as in `FourM.generate`. Raises
        ValueError, one line, for a sample without any input, for invalid values, and if the model has diverged."""
        return self.predict_batch([sample])[0]

    def predict_batch(self, samples: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """The predictions for several samples, batched but independent of one another. Raises ValueError like
        `predict`."""
        read = [self.read(sample) for sample in inputs_of(samples)]
        answers = zip(map(self.objective.answer, self.outputs([sample.shown for sample in read])), read, strict=True)
        return [self._uncrop(answer, sample.views) for answer, sample in answers]

    def read(self, sample: Mapping[str, Any]) -> Sample:
        """The inputs of one sample, in the order in which they are packed. Raises ValueError like `predict`."""
        read, _ = self.reader.read({name: value for name, value in sample.items() if value is not None}, ())
        if not any(map(len, read.shown.values())):
            raise ValueError(f"a sample without any input; give one of {', '.join(self.inputs)}")
        self.objective.check_inputs(read.shown)
        return replace(read, shown={name: read.shown[name] for name in ordered(self.vocabulary, read.shown)})

    @torch.inference_mode()
    def outputs(self, samples: Sequence[Mapping[str, Shown]]) -> Tensor:
        """The head's outputs for the inputs of several samples, float32, on the CPU. Raises ValueError if they are not
        finite."""
        capacity = max((sum(map(len, parts.values())) for parts in samples), default=0)
        batch = TaskBatch(*pack_inputs(samples, self.vocabulary, capacity, self.device), {}, 0)
        outputs = self.network(batch).float().cpu()
        if not outputs.isfinite().all():
            raise ValueError("the model's outputs are not finite; it has diverged, use another")
        return outputs

    def _uncrop(self, answer: Answer, views: SampleViews) -> Answer:
        if isinstance(answer, Detections) and isinstance(self.objective, Detection):
            return answer.uncrop(view_of(self.objective.picture.spec, views, 0))
        return answer

    def render(self, sample: Mapping[str, Any]) -> Any:
        """The sample's picture for detection, as a `PIL.Image`; None if it is not given."""
        assert isinstance(self.objective, Detection)
        picture = self.objective.picture
        given = [value for name, value in sample.items() if self.reader.instance(name, raw=True) is picture]
        return calls.render(picture, picture.value(given[0])) if given else None

    def _find(self, name: str) -> Modality[Any]:
        """An input by its name, or by the part before "@" if that is unique."""
        alike = [modality for known, modality in self.inputs.items() if known.partition("@")[0] == name]
        if len(alike) == 1:
            return alike[0]
        if name in self.inputs:
            return self.inputs[name]
        raise ValueError(no_such(name, self.inputs))


def load_head(
    path: str | Path,
    *,
    device: torch.device | str | None = None,
    disable: Iterable[str] = (),
    providers: Mapping[str, str] | None = None,
    manager: PluginManager | None = None,
) -> TaskModel:
    """Load a model trained by `fourm finetune` from a run's folder, its `best/` (with `train.keep_best`), or a folder
    `head/`. `device`: by default a GPU if there is one; `disable`, `providers`, `manager`: see `FourM.from_pretrained`.

    Raises ValueError, one line, if it does not exist, is damaged, or needs a plugin that is not installed."""
    host = manager or PluginManager(disabled=disable, providers=providers)
    return TaskModel(*load(locate(Path(path)), host)).to(choose_device(device))

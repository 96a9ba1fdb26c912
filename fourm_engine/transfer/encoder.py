"""`encoder`: the encoder of a trained model, or of a model fine-tuned to a task. In: a run, a folder or an id. Out: an
`Encoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fourm_engine.features.encoder import Encoder
from fourm_engine.features.resizing import Size, resized
from fourm_engine.model import FourM
from fourm_engine.transfer.model import load_head
from fourm_engine.transfer.task_folder import is_task


def encoder(
    path_or_id: str | Path,
    inputs: Iterable[str] | str | None = None,
    *,
    size: Size | Mapping[str, Size] | None = None,
    **options: Any,
) -> Encoder:
    """The encoder of a trained model, a `torch.nn.Module`. Called with a list of B samples, {name: value}, it returns
    float32 (B, D), D = `num_features`: the mean feature over the tokens of each sample.

    Args:
        path_or_id: a run's folder, a model's folder, a published file or a Hub id; or a run of `fourm finetune` with a
            task, for its encoder.
        inputs: modalities that samples may have; by default all that the model takes.
        size: pixels per side, or (height, width), of all inputs that are grids, or {name: size}; by default the sizes
            of training. Positions are interpolated.
        options: of `FourM.from_pretrained`, such as `device`. A later `to` moves the network, but not the tokenizers.

    Raises ValueError, one line, if the model does not exist, for inputs that it does not take, for sizes that an input
    or its tokenizer does not support, and for a size with a task."""
    if is_task(str(path_or_id)):
        refuse_size(path_or_id, size)
        return load_head(path_or_id, **options).encoder(inputs)
    model = FourM.from_pretrained(path_or_id, **options)
    return Encoder(model if size is None else resized(model, inputs, size), inputs)


def refuse_size(run: str | Path, size: Any) -> None:
    """Raise ValueError for a `size` given for a task."""
    if size is not None:
        raise ValueError(f"size: {run} is of a task, which has the sizes it was trained at; leave it out")

"""The folder of an adapter: the changes that fine-tuning with `finetune.lora` made to a model, without the model.

    adapter.json           the digest of the model that it belongs to, and what comes of both, as in an export
    adapter.safetensors    <matrix>.down and <matrix>.up, the A and B of LoRA; what learned beside them, and what is new

As for an export, nothing in a folder is ever imported, unpickled or evaluated, and both files are checked against each
other and the model before memory is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, StringConstraints
from safetensors.torch import save_file
from torch import Tensor

from fourm_engine.exported import ExportedConfig, Strict, read_document
from fourm_engine.files import replacing_folder
from fourm_engine.nn.adapt import merged
from fourm_engine.nn.transformer import Transformer
from fourm_engine.weights import digest_of, opened
from fourm_plugins.hub import check_there

ADAPTER = "adapter"
CONFIG, WEIGHTS = "adapter.json", "adapter.safetensors"


class AdapterConfig(Strict):
    format: Literal["fourm-adapter"] = "fourm-adapter"
    version: Literal[1] = 1
    #: The base model, as the run named it, and `digest_of` its weights.
    base: str = Field(max_length=4096)
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    #: alpha / rank.
    scale: float = Field(gt=0, allow_inf_nan=False)
    #: The merged model.
    model: ExportedConfig


def save(folder: Path, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter atomically; replaces an earlier one, and nothing else. `tensors`: see `learned`."""
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if foreign := [name for name in there if name not in (CONFIG, WEIGHTS)]:
        raise ValueError(f"{folder} holds {foreign[0]!r}, which no adapter does; choose an empty folder")
    with replacing_folder(folder) as temporary:
        (temporary / CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=1), encoding="utf-8")
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary / WEIGHTS, metadata={"format": "pt"})


class Adapter:
    """A saved adapter: `path` is its folder, or that of the run. Raises ValueError, one line, if there is none, or it
    is damaged."""

    def __init__(self, path: str | Path) -> None:
        folder = next((f for f in (Path(path), Path(path) / ADAPTER) if (f / CONFIG).is_file()), None)
        if folder is None:
            check_there(Path(path))
            raise ValueError(f"{path}: no adapter: {CONFIG} is missing; runs with finetune.lora write one")
        self.folder = folder
        self.config = read_document(folder / CONFIG, AdapterConfig, lambda config: config.model, refused={})
        self.vocabulary = self.config.model.build_vocabulary()

    def check_base(self, weights: Path) -> None:
        """Raise ValueError unless `weights` is the file of the base model."""
        if not weights.is_file():
            raise ValueError(f"{weights.parent} holds no exported model: {weights.name} is missing")
        if (digest := digest_of(weights)) != self.config.digest:
            raise ValueError(
                f"{self.folder}: an adapter of another model than {weights} (digest {digest}): it was trained from "
                f"{self.config.base!r} (digest {self.config.digest}); give that one"
            )

    def merged(self, base: Transformer) -> Transformer:
        """The network of `base` with the adapter merged into its weights, on the CPU. Raises ValueError for tensors
        that are missing, unknown or misshapen."""
        with torch.device("meta"):
            network = Transformer(self.config.model.model, self.vocabulary)
        path, shapes = self.folder / WEIGHTS, {name: t.shape for name, t in network.state_dict().items()}
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                self._check(name, tuple(file.get_slice(name).get_shape()), shapes)
            learned = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        try:
            state = merged(base.state_dict(), learned, shapes, scale=self.config.scale)
        except ValueError as error:
            raise ValueError(f"{path} does not fit {CONFIG} and its model: {error}") from None
        network.to_empty(device="cpu")
        network.init_buffers()
        network.load_state_dict(state)
        return network.eval()

    def _check(self, name: str, shape: tuple[int, ...], shapes: Mapping[str, torch.Size]) -> None:
        """Check that a tensor is no larger than its target, before it is read."""
        matrix, _, factor = name.rpartition(".")
        expected = shapes.get(name)
        if expected is None and factor in ("down", "up") and len(shape) == 2 and len(shapes.get(matrix, ())) == 2:
            rows, columns = shapes[matrix]
            rank = shape[factor == "up"]
            expected = torch.Size((rank, columns) if factor == "down" else (rows, rank)) if rank <= 4096 else None
        if expected is None or shape != tuple(expected):
            raise ValueError(f"{self.folder / WEIGHTS} does not fit {CONFIG}: {name} of shape {shape} is unknown there")

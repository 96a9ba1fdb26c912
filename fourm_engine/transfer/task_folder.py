"""The folder of a trained task: `config.json`, `model.safetensors` (encoder and head), `tokenizers/<token space>/…`.

In and out: the description of the task, as names and numbers, and tensors by name. As for exported models, nothing in a
folder is imported, unpickled or evaluated; heads, modalities and tokenizers are looked up by name among the installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, StringConstraints
from safetensors.torch import save_file
from torch import Tensor

from fourm_engine import exported
from fourm_engine.exported import Distribution, ExportedConfig, Name, SavedModality, Strict, described
from fourm_engine.files import replacing_folder
from fourm_engine.loading import modality_of
from fourm_engine.modalities import Modalities
from fourm_engine.nn.config import ModelConfig
from fourm_engine.tokenizers.store import load_tokenizers, save_tokenizer
from fourm_engine.transfer.backbone import encoder_alone
from fourm_engine.transfer.classification import Classification
from fourm_engine.transfer.config import ClassificationConfig, DetectionConfig, RetrievalConfig, TaskConfig
from fourm_engine.transfer.dense import Regression, Segmentation
from fourm_engine.transfer.detection import Detection, picture_of
from fourm_engine.transfer.network import TaskNetwork, head_spec, make_head
from fourm_engine.transfer.objective import Objective
from fourm_engine.transfer.retrieval import Retrieval
from fourm_engine.vocabulary import Vocabulary
from fourm_engine.weights import opened
from fourm_engine.yaml_config import not_a_run
from fourm_plugins.hub import check_there
from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

HEAD = "head"  # in the folder of a run
_HEADER = 64  # characters of a config that begin with its format
_FILES = (exported.CONFIG, exported.WEIGHTS, exported.TOKENIZERS)


class SavedHead(Strict):
    """The head, and the package that provides it."""

    distribution: Distribution
    version: str = Field(max_length=128)


class SavedTarget(Strict):
    name: Name
    modality: SavedModality


class SavedTask(Strict):
    """`classes` of a classification or detection, `target` of a dense task; `encoder`: the inputs alone."""

    format: Literal["fourm-head"] = "fourm-head"
    version: Literal[1] = 1
    task: TaskConfig
    head: SavedHead
    classes: list[Annotated[str, StringConstraints(max_length=4096)]] | None = None
    target: SavedTarget | None = None
    encoder: ExportedConfig
    #: Held-out metrics of these weights; null: not finite.
    scores: dict[str, float | None]


def objective_of(
    config: TaskConfig,
    inputs: Mapping[str, Modality[Any]],
    *,
    classes: list[str] | None = None,
    target: Modality[Any] | None = None,
) -> Objective:
    """The objective, without labels. Raises ValueError if classes or target are missing or invalid."""
    if isinstance(config, (ClassificationConfig, DetectionConfig)):
        if not classes:
            raise ValueError(f"a {config.kind} needs classes")
        if isinstance(config, DetectionConfig):
            return Detection(config, classes, picture_of(inputs))
        return Classification(config, classes)
    if isinstance(config, RetrievalConfig):
        return Retrieval(config)
    if target is None:
        raise ValueError(f"a {config.kind} needs the modality of its target")
    return Segmentation(config, target) if config.kind == "segmentation" else Regression(config, target)


def save(
    folder: Path,
    backbone: Mapping[str, Tensor],
    head: Mapping[str, Tensor],
    *,
    config: ModelConfig,
    task: TaskConfig,
    objective: Objective,
    inputs: Modalities,
    target: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    vocabulary: Vocabulary,
    host: PluginManager,
    scores: Mapping[str, float],
) -> None:
    """Write the folder atomically, replacing an earlier one of its kind. `target`: the modality to learn, if the target
    is one. Raises ValueError if the folder holds something else."""
    if folder.is_dir() and (foreign := sorted(p.name for p in folder.iterdir() if p.name not in _FILES)):
        raise ValueError(f"{folder} holds {foreign[0]!r}, which no trained task does; move it away")
    plugin = host.find("head", task.head)
    spaces = {space: specs[0].name for space, specs in inputs.token_spaces.items()}
    document = SavedTask(
        task=_without_folders(task),
        head=SavedHead(distribution=plugin.distribution, version=plugin.version),
        classes=list(objective.classes) if isinstance(objective, (Classification, Detection)) else None,
        target=next((SavedTarget(name=n, modality=described(m, target.plugins[n])) for n, m in target.items()), None),
        encoder=ExportedConfig(
            model=config,
            vocabulary=vocabulary.to_json(),  # type: ignore[arg-type]
            modalities={name: described(modality, inputs.plugins[name]) for name, modality in inputs.items()},
            tokenizers={space: tokenizers[name].fingerprint for space, name in spaces.items()},
        ),
        scores={name: score if abs(score) < float("inf") else None for name, score in scores.items()},
    )
    document.encoder.build_vocabulary()
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    tensors |= {f"head.{name}": tensor for name, tensor in head.items()}
    with replacing_folder(folder) as temporary:
        text = json.dumps(document.model_dump(mode="json"), indent=1)
        (temporary / exported.CONFIG).write_text(text, encoding="utf-8")
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(plain, temporary / exported.WEIGHTS, metadata={"format": "pt"})
        (temporary / exported.TOKENIZERS).mkdir()
        for space, name in spaces.items():
            members = [inputs[spec.name] for spec in inputs.token_spaces[space]]
            save_tokenizer(tokenizers[name], temporary / exported.TOKENIZERS / space, manager=host, modalities=members)


def locate(path: Path) -> Path:
    """The folder of a trained task: `path` itself, or `head/` of a run. Raises ValueError if there is none."""
    for candidate in (path, path / HEAD):
        if (candidate / exported.CONFIG).is_file() and (candidate / exported.WEIGHTS).is_file():
            return candidate
    check_there(path)
    if path.is_file():
        raise ValueError(not_a_run(path))
    raise ValueError(
        f"{path}: neither it nor {HEAD}/ in it holds a trained task; `fourm finetune` makes one, in <run>/{HEAD}"
    )


def is_task(path: str) -> bool:
    """Whether a run or folder holds a trained task rather than a model."""
    folder = Path(path)
    if (folder / "model" / exported.CONFIG).is_file():
        return False
    try:
        at = locate(folder)
        return at != folder or exported.HEAD_FORMAT in (at / exported.CONFIG).read_text(encoding="utf-8")[:_HEADER]
    except (OSError, ValueError):
        return False


def read_task(folder: Path) -> SavedTask:
    """Raises ValueError naming file, key and reason."""
    refused = {"fourm": "this is no trained task (`fourm finetune` makes one); models are for fourm generate"}
    return exported.read_document(folder / exported.CONFIG, SavedTask, lambda saved: saved.encoder, refused=refused)


def load(
    folder: Path, manager: PluginManager
) -> tuple[TaskNetwork, Objective, Modalities, dict[str, Tokenizer], Vocabulary]:
    """The network on the CPU in evaluation mode, its objective, and its inputs. Raises ValueError if a file is missing
    or damaged, or a plugin or tokenizer is not the one of training."""
    saved = read_task(folder)
    encoder = saved.encoder
    instances = [modality_of(name, entry, manager, folder) for name, entry in encoder.modalities.items()]
    plugins = {name: manager.find("modality", entry.plugin) for name, entry in encoder.modalities.items()}
    inputs = Modalities(instances, plugins, manager)
    tokenizers = load_tokenizers(folder / exported.TOKENIZERS, inputs.token_spaces, manager, modalities=inputs)
    for name, tokenizer in tokenizers.items():
        space = inputs[name].spec.token_space
        if space is not None and tokenizer.fingerprint != encoder.tokenizers.get(space.name):
            raise ValueError(f"{folder}: tokenizer {space.name!r} is another than the task was trained with")
    target = None if (t := saved.target) is None else modality_of(t.name, t.modality, manager, folder)
    try:
        objective = objective_of(saved.task, inputs, classes=saved.classes, target=target)
    except ValueError as error:
        raise ValueError(f"{folder / exported.CONFIG}: {error}") from None
    vocabulary = encoder.build_vocabulary()
    spec = head_spec(encoder.model.width, vocabulary, objective, inputs)
    backbone = encoder_alone(encoder.model, vocabulary)
    make = partial(make_head, saved.task.head, saved.task.head_options, spec, manager)
    with torch.device("meta"):  # compare the config with the file before allocating memory
        try:
            head = objective.head(make, vocabulary)
        except PluginError:
            raise
        except ValueError as error:
            raise ValueError(f"{folder / exported.CONFIG}: task: {error}") from None
        shape = TaskNetwork(backbone, vocabulary, head, spec)
    expected = {name: tuple(tensor.shape) for name, tensor in shape.state_dict().items()}
    with opened(folder / exported.WEIGHTS, expected) as file:
        backbone.to_empty(device="cpu")
        backbone.init_buffers()
        network = TaskNetwork(backbone, vocabulary, objective.head(make, vocabulary), spec)
        for name, tensor in network.state_dict().items():
            file.get_slice(name).fill(tensor)
    return network.eval(), objective, inputs, tokenizers, vocabulary


def _without_folders(task: TaskConfig) -> TaskConfig:
    """The section with file names instead of paths, which are meaningless on another machine."""
    if not isinstance(task, (ClassificationConfig, DetectionConfig)):
        return task
    files = {key: Path(path.name) for key in ("labels", "val_labels") if isinstance(path := getattr(task, key), Path)}
    return task.model_copy(update=files)

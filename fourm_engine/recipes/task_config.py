"""The config of a run that learns a task: one YAML file for `fourm finetune`, dotted overrides, strict validation.

In: `config.yaml` and overrides. Out: `TaskRunConfig`. Settings of the inputs that it leaves open come from the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.data.config import DataConfig
from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.finetune.source import Description, check_known, filled
from fourm_engine.modalities import ModalitiesConfig, load_manager
from fourm_engine.recipes import started
from fourm_engine.recipes.config import StoredConfig, leave_out_missing
from fourm_engine.recipes.overrides import apply_overrides
from fourm_engine.storage.url import LocalFolder
from fourm_engine.train.config import TrainConfig
from fourm_engine.transfer.config import KINDS, RetrievalConfig, TaskConfig
from fourm_engine.transfer.source import describe_source
from fourm_engine.yaml_config import ConfigError, read_yaml, validated
from fourm_plugins.suggest import nearest

#: The adaptable parts of an encoder without a decoder.
MATRICES = ["encoder"]
PATHS = (*started.PATHS, "task.labels", "task.val_labels")


class TaskTokenizers(BaseModel):
    """Tokenizers of inputs that have tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    #: As `tokenizers.folder` in a model's config; null: the model's.
    folder: LocalFolder | None = None


class TaskRunConfig(StoredConfig):
    """Everything that defines a run which learns a task with a trained model's encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    paths: ClassVar[tuple[str, ...]] = PATHS

    #: `select`: one or more inputs that the model knows; `settings`: theirs, and those of `task.target`.
    modalities: ModalitiesConfig
    data: DataConfig
    tokenizers: TaskTokenizers = Field(default_factory=TaskTokenizers)
    #: The model, and which parts of its encoder are frozen or adapted.
    finetune: FinetuneConfig
    task: TaskConfig
    train: TrainConfig

    @model_validator(mode="after")
    def _lengths(self) -> TaskRunConfig:
        try:
            self.train.plan()
        except ValueError as error:
            raise ValueError(f"train: {error}") from None
        return self

    @model_validator(mode="after")
    def _data(self) -> TaskRunConfig:
        if self.data.tokens is not None:
            raise ValueError("data.tokens: a task reads its inputs and targets from raw data; leave it out")
        if isinstance(self.data.train, tuple):
            raise ValueError("data.train: a task is learned from one data set, not a list; name its folder")
        if self.data.train is None:
            raise ValueError("data.train: name the folder of the training samples")
        return self

    @model_validator(mode="after")
    def _inputs(self) -> TaskRunConfig:
        if self.modalities.select == "installed" or not self.modalities.select:
            raise ValueError("modalities.select: name the inputs, such as [NAME], of those that the model knows")
        if getattr(self.task, "target", None) in self.modalities.select:
            raise ValueError(
                f"task.target: {self.task.target!r} is an input, too, and would tell the answer; take it out of "  # type: ignore[union-attr]
                f"modalities.select"
            )
        if isinstance(self.task, RetrievalConfig):
            sides = {name for side in self.task.between for name in side}
            if unknown := sorted(sides - set(self.modalities.select)):
                near = nearest(unknown[0], self.modalities.select)
                remedy = f"did you mean {near!r}?" if near else "add it there"
                raise ValueError(f"task.between: {unknown[0]!r} is not among modalities.select; {remedy}")
            if unused := sorted(set(self.modalities.select) - sides):
                raise ValueError(f"modalities.select: {unused[0]!r} is on no side of task.between; add it there")
        return self

    @property
    def inputs(self) -> ModalitiesConfig:
        """The modalities config of the inputs alone."""
        settings = {name: s for name, s in self.modalities.settings.items() if name in self.modalities.select}
        return self.modalities.model_copy(update={"settings": settings})


def load_task_config(path: str | Path, overrides: Sequence[str] = ()) -> TaskRunConfig:
    """Read `path`, apply overrides `section.key=value`, fill in the model's settings of its inputs, and validate.
    Raises ConfigError."""
    path = Path(path)
    raw = read_task(path, overrides)
    return parse_task_config(raw, str(path)) if started.is_stored(path) else resolve_task(raw, path)


def read_task(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """`path` with its overrides as nested values, not yet validated. Raises ConfigError if it names no task."""
    raw = read_yaml(path)
    missing = started.relocate(raw, path, PATHS)
    apply_overrides(raw, overrides)
    leave_out_missing(raw, path, missing, overrides, ("data.train", "data.val", "task.labels", "task.val_labels"))
    if not isinstance(raw.get("task"), Mapping):
        if raw.get("finetune") is not None:
            raise ConfigError(f"{path}: has no section `task`: it trains the model itself, with `fourm train {path}`")
        raise ConfigError(f"{path}: has no section `task`, which says what is learned: task: {{kind: classification}}")
    kind = raw["task"].get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{path}: task.kind is {kind!r}, not one of {', '.join(KINDS)}")
    return raw


def resolve_task(raw: dict[str, Any], origin: Path) -> TaskRunConfig:
    """Validate what `read_task` returned for `origin`, and fill in the model's settings of its inputs. Raises
    ConfigError."""
    config = parse_task_config(raw, str(origin))
    try:
        description = describe_source(config.finetune.source, load_manager(config.modalities))
        check_known(config.finetune.source, description.settings, config.modalities.select)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return completed(config, description)


def parse_task_config(raw: dict[str, Any], origin: str) -> TaskRunConfig:
    return validated(TaskRunConfig, raw, f"{origin}: ")


def completed(config: TaskRunConfig, description: Description) -> TaskRunConfig:
    """The config, with open settings of the inputs and the tokenizer folder filled in from the model."""
    _, settings = filled({}, config.modalities.settings, description, list(config.modalities.select))
    update: dict[str, Any] = {"modalities": config.modalities.model_copy(update={"settings": settings})}
    if config.tokenizers.folder is None and description.tokenizers is not None:
        update["tokenizers"] = TaskTokenizers(folder=description.tokenizers)
    lora = config.finetune.lora
    if lora is not None and "matrices" not in lora.model_fields_set:
        lora = lora.model_copy(update={"matrices": MATRICES})
        update["finetune"] = config.finetune.model_copy(update={"lora": lora})
    return config.model_copy(update=update)

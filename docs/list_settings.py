"""The page docs/settings.md, from the classes of the config: `python -m docs.list_settings` writes it anew.

A setting's text is the comment above it in its class, or its `description`. Settings below one comment are one row.
"""

from __future__ import annotations

import ast
import html
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fourm_engine.data.config import DataConfig, TrainingSet
from fourm_engine.evaluate.config import EvalTask, EvaluateConfig
from fourm_engine.extend.config import ExtendConfig
from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.fit.config import AdaptConfig, FitConfig, TokenizersConfig
from fourm_engine.generate.options import Options
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.modalities import ModalitiesConfig
from fourm_engine.nn.config import LoraConfig, ModelConfig
from fourm_engine.pretrain.config import LossConfig
from fourm_engine.recipes.config import StoredConfig
from fourm_engine.storage.config import RemoteConfig
from fourm_engine.train.config import TrainConfig
from fourm_engine.transfer.config import (
    ClassificationConfig,
    DetectionConfig,
    RegressionConfig,
    RetrievalConfig,
    SegmentationConfig,
    _Task,
)

PAGE = Path(__file__).parent / "settings.md"
#: Heading, class, and what to say below the heading.
SECTIONS: list[tuple[str, type[BaseModel], str]] = [
    ("Top level", StoredConfig, ""),
    (
        "modalities",
        ModalitiesConfig,
        "[Installing](installing-plugins.md). `fourm plugins info NAME` lists the settings of a modality.",
    ),
    ("data", DataConfig, "[Data](data.md)"),
    (
        "data.train.N",
        TrainingSet,
        "An entry, where `data.train` is a list: [several data sets](data.md#several-data-sets)",
    ),
    ("data.remote", RemoteConfig, "[Remote data](data.md#remote-data)"),
    ("tokenizers", TokenizersConfig, "[Tokenizers](tokenizers.md)"),
    (
        "tokenizers.fit",
        FitConfig,
        "Those of [`train`](#train), except as below; `steps` is 2000 and `lr` 1.5e-3 where nothing else is set.",
    ),
    ("tokenizers.fit.adapt", AdaptConfig, "[Several sizes](tokenizers.md#several-sizes)"),
    ("masking", MaskingConfig, "[Masking](data.md#masking)"),
    ("masking.mixture.N", Component, "[Masking](data.md#masking)"),
    ("model", ModelConfig, "Set `size`, or the four numbers `width` to `heads`."),
    ("loss", LossConfig, ""),
    ("train", TrainConfig, "[Training](training.md)"),
    ("evaluate", EvaluateConfig, "[Evaluation](generation.md#evaluation)"),
    ("evaluate.tasks.N", EvalTask, ""),
    ("evaluate.tasks.N.options.TARGET", Options, "[Generation](generation.md)"),
    ("finetune", FinetuneConfig, "[Fine-tuning](fine-tuning.md)"),
    ("finetune.lora, extend.lora", LoraConfig, "[LoRA](fine-tuning.md#lora)"),
    ("extend", ExtendConfig, "[Extending](extending.md), whose command writes this section"),
    ("task", _Task, "[Tasks](tasks.md), for `fourm finetune`. `kind` is one of those below, which add keys."),
    ("task, kind: classification", ClassificationConfig, ""),
    ("task, kind: segmentation", SegmentationConfig, ""),
    ("task, kind: regression", RegressionConfig, ""),
    ("task, kind: detection", DetectionConfig, ""),
    ("task, kind: retrieval", RetrievalConfig, ""),
]
#: Of these, only what the base does not say.
BEYOND: dict[type[BaseModel], type[BaseModel]] = {FitConfig: TrainConfig} | dict.fromkeys(
    (ClassificationConfig, SegmentationConfig, RegressionConfig, DetectionConfig, RetrievalConfig), _Task
)
HEAD = """\
# Settings

<!-- Written by `python -m docs.list_settings` from the comments in the code; a test compares them. -->

Every key that a config may have, with its default. Set one in the file, or append it to a command as
`section.key=value`, where the value is YAML: `fourm train mine.yaml train.lr=3e-4 'data.held_out=[val]'`. A misspelt
key is an error that suggests the nearest. A run stores all values in `<run>/config.yaml`. Keys of `fourm sweep` and
`fourm suite` are in [sweeps](sweeps.md).
"""


class Row(NamedTuple):
    names: list[str]
    text: str


def rows(model: type[BaseModel]) -> list[Row]:
    """The settings of a class and of its bases, in the order of the class."""
    texts: dict[str, Row] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            texts |= {name: row for row in _written(base) for name in row.names}
    told: list[Row] = []
    for name in model.model_fields:
        if texts[name] not in told:
            told.append(texts[name])
    return told


def _written(model: type[BaseModel]) -> list[Row]:
    """The rows that the source of one class states."""
    source = textwrap.dedent(inspect.getsource(model))
    lines, (tree,) = source.splitlines(), ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found: list[Row] = []
    for node in tree.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        name, first = node.target.id, node.lineno - 1
        comment = []
        while (line := lines[first - 1 - len(comment)].strip()).startswith("#"):
            comment.insert(0, line.lstrip("#: "))
        described = model.model_fields[name].description if name in model.model_fields else None
        if comment or described or not found or not lines[first - 1].strip():
            found.append(Row([name], described or " ".join(comment)))
        else:
            found[-1].names.append(name)
    return found


def default(field: FieldInfo) -> str:
    value = field.default
    if field.default_factory is not None:
        value = field.default_factory()  # type: ignore[call-arg]
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, BaseModel) or (value and isinstance(value, tuple) and isinstance(value[0], BaseModel)):
        return "see below"
    if isinstance(value, Path):
        return "`~/.cache/fourm`"  # on Linux; the only one
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def section(heading: str, model: type[BaseModel], note: str) -> str:
    wanted = [row for row in rows(model) if row.names != ["kind"]]  # told by the heading
    if base := BEYOND.get(model):
        known = {
            name for name, field in base.model_fields.items() if default(field) == default(model.model_fields[name])
        }
        wanted = [Row(left, row.text) for row in wanted if (left := [name for name in row.names if name not in known])]
    lines = [f"## {heading}", ""]
    lines += [note, ""] if note else []
    lines += ["| key | default | |", "|---|---|---|"]
    for names, text in wanted:
        defaults = [default(model.model_fields[name]) for name in names]
        shown = defaults[:1] if len(set(defaults)) == 1 else defaults
        lines.append(f"| {', '.join(f'`{n}`' for n in names)} | {', '.join(shown)} | {_prose(text)} |")
    return "\n".join(lines)


def _prose(text: str) -> str:
    """`text` for a table: what is not code is escaped."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [html.escape(part, quote=False).replace("*", r"\*") for part in parts[::2]]
    parts[::2] = plain
    text = "".join(parts).replace("|", r"\|").rstrip(".")
    return text if text.startswith("null") else text[:1].upper() + text[1:]


def write() -> str:
    """The whole page."""
    return "\n\n".join([HEAD.rstrip(), *(section(*one) for one in SECTIONS)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(write())

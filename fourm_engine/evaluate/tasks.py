"""Which tasks a model can do: the configured ones, fitted to the modalities that are there, or the default ones.

In: `EvalTask`s and the model's modalities. Out: `Task`s whose names all exist, and a note on everything left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fourm_engine.evaluate.config import EvalTask, Part, StageOptions
from fourm_plugins.modality import Modality

ALL = "*"


@dataclass(frozen=True)
class Task:
    """`inputs`: name as the user gives it -> the modality it is shown as (the continuous one that reads the same
    source, if there is one). An input that is a target, too, is shown as tokens."""

    name: str
    inputs: dict[str, str]
    targets: list[str]
    keep: dict[str, Part]
    chain: bool
    options: dict[str, StageOptions]
    samples: int | None


def resolve_tasks(
    configured: list[EvalTask], modalities: Mapping[str, Modality], missing: Mapping[str, str] | None = None
) -> tuple[list[Task], list[str]]:
    """A task lacking an input, or every target, is left out, and a target that is lacking is; each with a note.
    `missing`: why a modality of the model is not there."""
    tasks, notes = [], []
    for task in configured or default_tasks(modalities):
        why = {
            name: (missing or {}).get(name) or "not among the model's modalities" for name in task.inputs + task.targets
        }
        lacking = [name for name in task.inputs if not _readers(name, modalities)]
        if lacking:
            notes.append(f"task {task.name!r} is left out, its input {lacking[0]!r} is lacking: {why[lacking[0]]}")
            continue
        targets = []
        for target in task.targets:
            if target == ALL:
                targets += [name for name in everything_else(task.inputs, modalities) if name not in task.targets]
            elif target not in modalities:
                notes.append(f"task {task.name!r} goes without its target {target!r}: {why[target]}")
            elif not modalities[target].spec.target:
                notes.append(f"task {task.name!r} goes without its target {target!r}, which is input only")
            else:
                targets.append(target)
        if not targets:
            notes.append(f"task {task.name!r} is left out: none of its targets is there")
            continue
        inputs = {name: shown_as(name, targets, modalities) for name in task.inputs}
        options = {name: stage for name, stage in task.options.items() if name in targets}
        tasks.append(Task(task.name, inputs, targets, dict(task.keep), task.chain, options, task.samples))
    return tasks, notes


def default_tasks(modalities: Mapping[str, Modality]) -> list[EvalTask]:
    """From every single input to everything else; a source with continuous input is shown that way alone."""
    tasks = []
    for name, modality in modalities.items():
        if not modality.spec.input or shown_as(name, (), modalities) != name:
            continue
        if everything_else([name], modalities):
            tasks.append(EvalTask(name=f"{name} → everything", inputs=[name], targets=[ALL], chain=False))
    return tasks


def everything_else(inputs: list[str], modalities: Mapping[str, Modality]) -> list[str]:
    """Targets that read another source than any of the inputs."""
    sources = {reader.spec.source for name in inputs for reader in _readers(name, modalities)}
    return [name for name, m in modalities.items() if m.spec.target and m.spec.source not in sources]


def shown_as(name: str, targets: list[str] | tuple[str, ...], modalities: Mapping[str, Modality]) -> str:
    """The modality that shows what is given as `name`, by the rule of `FourM.generate`."""
    readers = _readers(name, modalities)
    exact = [reader for reader in readers if reader.name == name]
    if exact and name in targets:
        return name
    first = exact[0] if exact else readers[0]
    for reader in readers:
        if reader.spec.continuous and (not exact or reader.spec.array == first.spec.array):
            return reader.name
    return first.name


def _readers(name: str, modalities: Mapping[str, Modality]) -> list[Modality]:
    """Modalities that may show an input called `name`, a modality or a source."""
    exact = [modalities[name]] if name in modalities and modalities[name].spec.input else []
    return exact + [m for m in modalities.values() if m.spec.input and m.spec.source == name and m.name != name]

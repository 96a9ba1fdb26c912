"""The tasks of an evaluation: the configured ones, limited to the model's modalities, or the default ones.

In: `EvalTask`s and the model's modalities. Out: valid `Task`s, and a note on everything left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fourm_engine.evaluate.config import EvalTask, Part
from fourm_engine.generate.options import Options
from fourm_engine.generate.plan import default_plan
from fourm_plugins.modality import Modality
from fourm_plugins.spec import Grid, ModalitySpec

ALL = "*"


@dataclass(frozen=True)
class Task:
    """`inputs`: the user's name -> the modality it is shown as (the continuous one of the same source, if there is one;
    tokens if it is also a target)."""

    name: str
    inputs: dict[str, str]
    targets: list[str]
    keep: dict[str, Part]
    chain: bool
    options: dict[str, Options]
    samples: int | None


def resolve_tasks(
    configured: list[EvalTask], modalities: Mapping[str, Modality], missing: Mapping[str, str] | None = None
) -> tuple[list[Task], list[str]]:
    """Resolves `tasks`, skipping missing targets and tasks that lack an input or all targets, each with a note.
    `missing`: modality -> why it is missing. Raises ValueError for invalid options or parts."""
    tasks, notes = [], []
    for task in configured or default_tasks(modalities):
        why = {name: (missing or {}).get(name) or "not in the model" for name in task.inputs + task.targets}
        lacking = [name for name in task.inputs if not _readers(name, modalities)]
        if lacking:
            notes.append(f"task {task.name!r} is left out, its input {lacking[0]!r} is lacking: {why[lacking[0]]}")
            continue
        targets = _targets(task, modalities, why, notes)
        if not targets:
            notes.append(f"task {task.name!r} is left out: none of its targets is available")
            continue
        inputs = {name: shown_as(name, targets, modalities) for name in task.inputs}
        options = {name: stage for name, stage in task.options.items() if name in targets}
        tasks.append(Task(task.name, inputs, targets, dict(task.keep), task.chain, options, task.samples))
        _check(tasks[-1], modalities)
    return tasks, notes


def _targets(task: EvalTask, modalities: Mapping[str, Modality], why: Mapping[str, str], notes: list[str]) -> list[str]:
    """The targets that a task can have; adds a note for each that it goes without. `why`: name -> why it is missing."""
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
    return targets


def task_notes(configured: list[EvalTask], modalities: Mapping[str, Modality]) -> list[str]:
    """The parts of the configured tasks that an evaluation will skip, to report before training. Raises like
    `resolve_tasks`."""
    return [f"evaluate.tasks: {note}" for note in resolve_tasks(configured, modalities)[1]] if configured else []


def _check(task: Task, modalities: Mapping[str, Modality]) -> None:
    """Raises ValueError for an invalid part or option, before anything is computed."""
    try:
        for name, part in task.keep.items():
            kept_tokens(modalities[task.inputs[name]].spec, part, np.random.default_rng(0))
        for name, options in task.options.items():
            default_plan(name, modalities, **options.model_dump(exclude_none=True))
    except ValueError as error:
        raise ValueError(f"evaluate: task {task.name!r}, {name!r}: {error}") from None


def kept_tokens(spec: ModalitySpec, part: Part, rng: np.random.Generator) -> np.ndarray:
    """bool (tokens,): the visible tokens of a grid. Raises ValueError for other layouts, and if none or all are
    visible."""
    if not isinstance(spec.layout, Grid):
        raise ValueError(f"keep is for grids; leave it out for a {spec.layout.kind}")
    h, w = spec.layout.height, spec.layout.width
    if isinstance(part, float):
        if not 0 < (count := round(part * h * w)) < h * w:
            raise _no_part(spec, part)
        return rng.permutation(h * w) < count
    rows, columns = np.mgrid[:h, :w]
    shown = {
        "left": columns < w / 2,
        "right": columns >= w / 2,
        "top": rows < h / 2,
        "bottom": rows >= h / 2,
        "centre": (abs(rows + 0.5 - h / 2) < h / 4) & (abs(columns + 0.5 - w / 2) < w / 4),
    }[part]
    if shown.all() or not shown.any():
        raise _no_part(spec, part)
    return shown.reshape(-1)


def _no_part(spec: ModalitySpec, part: Part) -> ValueError:
    assert isinstance(spec.layout, Grid)
    size = f"{spec.layout.height}x{spec.layout.width} tokens"
    return ValueError(f"keep {part!r} is none or all of its {size}; choose another part, or leave it out")


def default_tasks(modalities: Mapping[str, Modality]) -> list[EvalTask]:
    """From every single input to everything else; a source with a continuous modality is shown only as that."""
    tasks = []
    for name, modality in modalities.items():
        if not modality.spec.input or shown_as(name, (), modalities) != name:
            continue
        if everything_else([name], modalities):
            tasks.append(EvalTask(name=f"{name} → everything", inputs=[name], targets=[ALL], chain=False))
    return tasks


def everything_else(inputs: list[str], modalities: Mapping[str, Modality]) -> list[str]:
    """Targets that read other files than any of the inputs."""
    files = {reader.spec.files for name in inputs for reader in _readers(name, modalities)}
    return [name for name, m in modalities.items() if m.spec.target and m.spec.files not in files]


def shown_as(name: str, targets: list[str] | tuple[str, ...], modalities: Mapping[str, Modality]) -> str:
    """The modality that an input `name` is shown as, by the rule of `FourM.generate`."""
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
    """Modalities that may show an input `name`, which is a modality or a source."""
    exact = [modalities[name]] if name in modalities and modalities[name].spec.input else []
    # Of several instances, `a` and `a@448`, the one without "@" represents the files.
    files = modalities[name].spec.files if name in modalities and "@" not in name else None
    others = (m for m in modalities.values() if m.spec.input and m.name != name)
    return exact + [m for m in others if m.spec.source == name or m.spec.files == files]

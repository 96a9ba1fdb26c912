"""The pluggy hooks. An entry point may name a class or function (the usual way: it is the plugin), or a module whose
functions are marked with `@fourm_plugins.hookimpl`, for a distribution that decides at activation what to offer.

A function that is marked, or whose name starts with `fourm_`, must be one of these hooks and take no arguments but the
hook's; anything else is an error at activation.

Hooks that *provide* something by name return it, or None for other names:

| hook | group of its entry points | returns |
|---|---|---|
| `fourm_modality` | `fourm.modalities.v1` | a subclass of `Modality` |
| `fourm_tokenizer` | `fourm.tokenizers.v1` | a subclass of `Tokenizer` |
| `fourm_masker` | `fourm.maskers.v1` | a subclass of `Masker` |
| `fourm_optimiser` | `fourm.optimisers.v1` | a function that makes a torch optimiser |
| `fourm_schedule` | `fourm.schedules.v1` | a function from step to learning rate |
| `fourm_order` | `fourm.orders.v1` | a function that scores the tokens of a grid, or a subclass of `DecodingOrder` |
| `fourm_head` | `fourm.heads.v1` | a function, or an `nn.Module` class, that makes a head of a task |
| `fourm_command` | `fourm.commands.v1` | a function, or a Typer app, that becomes `fourm <name>` |
| `fourm_source` | `fourm.sources.v1` | a subclass of `SampleSource`, or a function that opens one |

Hooks that *observe* (group `fourm.observers.v1`: an object with any of them) are called in the first process of a run.
What they return is ignored, what they raise is reported with their package's name, and they never change the numbers of
a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

if TYPE_CHECKING:
    from fourm_plugins.masker import Masker
    from fourm_plugins.modality import Modality
    from fourm_plugins.tokenizer import Tokenizer

hookspec = pluggy.HookspecMarker("fourm")
hookimpl = pluggy.HookimplMarker("fourm")


@dataclass(frozen=True)
class Run:
    """What observers know about a run."""

    #: Folder of its checkpoints and metrics, which belongs to one run at a time.
    folder: Path
    #: What is trained, such as "fourm" (the model) or "tokenizer".
    task: str
    #: Finished steps when it started (0) or resumed.
    first_step: int
    #: Its length in steps.
    steps: int
    #: Numbers of parameters, and of processes.
    parameters: int
    processes: int
    #: The section of its training settings, JSON-ready.
    config: Mapping[str, Any] = field(repr=False)


# What packages provide


@hookspec(firstresult=True)
def fourm_modality(name: str) -> type[Modality[Any]] | None:
    """The class of modality `name`, the entry point's name."""


@hookspec(firstresult=True)
def fourm_tokenizer(kind: str) -> type[Tokenizer] | None:
    """The class of tokenizer `kind`, the entry point's name."""


@hookspec(firstresult=True)
def fourm_masker(kind: str) -> type[Masker] | None:
    """The class of masker `kind`, the entry point's name."""


@hookspec(firstresult=True)
def fourm_optimiser(name: str) -> Any:
    """`make(groups, *, lr, **options) -> torch.optim.Optimizer` for `train.optimiser: name`.

    `groups` are parameter groups as torch takes them. Each has its "weight_decay" (0 for biases, norms, vectors and
    embeddings) and "matrices", the number of weight matrices stacked in each parameter (0 outside blocks). `options`
    are `train.optimiser_options`. The trainer sets the learning rate of every group before each step. Raises
    ValueError, one line, for options that it cannot use."""


@hookspec(firstresult=True)
def fourm_schedule(name: str) -> Any:
    """`rate(step, *, steps, lr, min_lr, warmup, cooldown) -> float` for `train.schedule: name`: the learning rate of
    `step` in [warmup, steps). Lengths are in steps; `lr` is the peak. The trainer does the warm-up before."""


@hookspec(firstresult=True)
def fourm_order(name: str) -> Any:
    """`score(confidence_N, unknown_N, step, steps, uniform_N) -> float32 (N,)` for `Stage(scheme=name)`: of the unknown
    tokens of a grid, row by row, those with the highest scores are kept in this step. Or a subclass of
    `DecodingOrder`, which may also say how many are kept, and which are masked again.

    Torch tensors: `confidence_N` is the log-probability of the drawn token, -inf where one is known; `unknown_N` is
    bool; `uniform_N` is drawn in [0, 1) for each step, from the sample's seed."""


@hookspec(firstresult=True)
def fourm_head(name: str) -> Any:
    """`make(spec, **options) -> torch.nn.Module` for `task.head: name`, whose `forward(features)` turns the encoder's
    `HeadFeatures` into (B, outputs); with `spec.size`, into a map (B, outputs, H, W) of that size; with `spec.levels`,
    into (B, cells, outputs + 5). `spec` is a `HeadSpec`, `options` are `task.head_options`. Raises ValueError, one
    line, for what it cannot serve."""


@hookspec(firstresult=True)
def fourm_command(name: str) -> Any:
    """The function or Typer app behind `fourm <name>`; its docstring is its help."""


@hookspec(firstresult=True)
def fourm_source(name: str) -> Any:
    """A subclass of `SampleSource`, or a function that is called like one, `source(location, specs, **settings)`, and
    returns one, for `data.train: NAME:LOCATION?setting=value`."""


# What packages observe


@hookspec
def fourm_run_started(run: Run) -> None:
    """A run starts, or resumes from a checkpoint, before its first step."""


@hookspec
def fourm_step(run: Run, step: int, metrics: Mapping[str, Any]) -> None:
    """Every `train.log_every` steps, with the new line of `metrics.jsonl`. `step` counts finished steps; a number that
    is not finite is None."""


@hookspec
def fourm_evaluated(run: Run, step: int, scores: Mapping[str, float | None]) -> None:
    """An evaluation after `step` steps: {name: held-out loss or metric}, None if it is not finite."""


@hookspec
def fourm_checkpoint(run: Run, step: int, folder: Path) -> None:
    """A checkpoint is complete in `folder`."""


@hookspec
def fourm_run_ended(run: Run, step: int, outcome: Literal["finished", "stopped", "failed"], error: str) -> None:
    """The run ends after `step` steps. `error` is '' unless it failed."""

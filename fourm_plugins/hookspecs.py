"""The pluggy hooks. An entry point names either the plugin itself, a class or function (the usual way), or a module
whose functions are marked with `@fourm_plugins.hookimpl`, for distributions that decide at activation what to provide.

A function that is marked, or whose name starts with `fourm_`, must be one of these hooks and take only the hook's
arguments; anything else is an error at activation.

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

Hooks that *observe* (group `fourm.observers.v1`: an object with any of them) are called on rank 0 of a run. Their
results are ignored, their errors are reported with their package's name, and they never change the result of a run.
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
    """The description of a run that observers receive."""

    #: Folder of checkpoints and metrics; belongs to one run at a time.
    folder: Path
    #: What is trained, such as "fourm" (the model) or "tokenizer".
    task: str
    #: Number of finished steps when the run started (0) or resumed.
    first_step: int
    #: Length of the run in steps.
    steps: int
    #: Number of parameters, and of processes.
    parameters: int
    processes: int
    #: The section with the training settings, JSON-ready.
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

    `groups` are torch parameter groups. Each has a "weight_decay" (0 for biases, norms, vectors and embeddings) and
    "matrices", the number of weight matrices stacked in each parameter (0 outside blocks). `options` are
    `train.optimiser_options`. The trainer sets the learning rate of every group before each step. `make` raises
    ValueError, one line, for options that it cannot use."""


@hookspec(firstresult=True)
def fourm_schedule(name: str) -> Any:
    """`rate(step, *, steps, lr, min_lr, warmup, cooldown) -> float` for `train.schedule: name`: the learning rate of
    `step` in [warmup, steps). Lengths are in steps; `lr` is the peak. The trainer handles the warm-up."""


@hookspec(firstresult=True)
def fourm_order(name: str) -> Any:
    """`score(confidence_N, unknown_N, step, steps, uniform_N) -> float32 (N,)` for `Stage(scheme=name)`: each step
    keeps the unknown tokens of a grid (in row-major order) with the highest scores. Or a subclass of `DecodingOrder`,
    which can also decide how many tokens to keep, and which to mask again.

    Torch tensors: `confidence_N` is the log-probability of the sampled token, -inf for known ones; `unknown_N` is bool;
    `uniform_N` is drawn from [0, 1) in each step, with the sample's seed."""


@hookspec(firstresult=True)
def fourm_head(name: str) -> Any:
    """`make(spec, **options) -> torch.nn.Module` for `task.head: name`, whose `forward(features)` turns the encoder's
    `HeadFeatures` into (B, outputs); with `spec.size`, into a map (B, outputs, H, W) of that size; with `spec.levels`,
    into (B, cells, outputs + 5). `spec` is a `HeadSpec`, `options` are `task.head_options`. `make` raises ValueError,
    one line, for a spec or options that it does not support."""


@hookspec(firstresult=True)
def fourm_command(name: str) -> Any:
    """The function or Typer app that implements `fourm <name>`; its docstring is the help."""


@hookspec(firstresult=True)
def fourm_source(name: str) -> Any:
    """A subclass of `SampleSource`, or a function with the same arguments, `source(location, specs, **settings)`, that
    returns an instance, for `data.train: NAME:LOCATION?setting=value`."""


# What packages observe


@hookspec
def fourm_run_started(run: Run) -> None:
    """Called when a run starts or resumes, before its first step."""


@hookspec
def fourm_step(run: Run, step: int, metrics: Mapping[str, Any]) -> None:
    """Called every `train.log_every` steps, with the new line of `metrics.jsonl`. `step` counts finished steps; numbers
    that are not finite are None."""


@hookspec
def fourm_evaluated(run: Run, step: int, scores: Mapping[str, float | None]) -> None:
    """Called after an evaluation at `step` steps. `scores`: {name: held-out loss or metric}, None if not finite."""


@hookspec
def fourm_checkpoint(run: Run, step: int, folder: Path) -> None:
    """Called when the checkpoint in `folder` is complete."""


@hookspec
def fourm_run_ended(run: Run, step: int, outcome: Literal["finished", "stopped", "failed"], error: str) -> None:
    """Called when a run ends, after `step` steps. `error` is '' unless it failed."""

"""The pluggy hooks. An entry point may name a class or function (the usual way: it is the plugin), or a module whose
functions are marked with `@fourm_plugins.hookimpl`, where one distribution decides at activation what to offer.

A function that is marked, or whose name starts with `fourm_`, and that is none of these is an error at activation, not
silence; so is one that takes arguments which its hook does not give.

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
What they return is ignored, what they raise is reported with their package's name, and the run's numbers are the same
with them and without.
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

    #: Folder of its checkpoints and metrics; one run at a time has it.
    folder: Path
    #: What is trained, such as "fourm" (the model) or "tokenizer".
    task: str
    #: Finished steps when it started or resumed; the step at which it ends.
    first_step: int
    steps: int
    parameters: int
    processes: int
    #: Its training settings, JSON-ready.
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

    `groups` are parameter groups as torch takes them, of which one has "weight_decay": 0; `options` are
    `train.optimiser_options`. The trainer sets the learning rate of every group before each step."""


@hookspec(firstresult=True)
def fourm_schedule(name: str) -> Any:
    """`rate(step, *, steps, lr, min_lr, warmup, cooldown) -> float` for `train.schedule: name`: the learning rate of
    `step` in [warmup, steps). The warm-up before is the trainer's."""


@hookspec(firstresult=True)
def fourm_order(name: str) -> Any:
    """`score(confidence_N, unknown_N, step, steps, uniform_N) -> float32 (N,)` for `Stage(scheme=name)`: of the unknown
    tokens of a grid, row by row, those with the highest scores stay in this step. Or a subclass of `DecodingOrder`,
    which may also say how many stay, and which are forgotten again.

    Torch tensors: `confidence_N` is the log-probability of the token that was drawn, -inf where one is known;
    `unknown_N` is bool; `uniform_N` is drawn anew in each step, in [0, 1), from the sample's seed."""


@hookspec(firstresult=True)
def fourm_head(name: str) -> Any:
    """`make(spec, **options) -> torch.nn.Module` for `task.head: name`, whose `forward(features)` turns the encoder's
    `HeadFeatures` into (B, outputs), or where `spec.size` is set into a map (B, outputs, H, W) of that size. `spec` is
    a `HeadSpec`, `options` are `task.head_options`. Raises ValueError, one line, for what it cannot serve."""


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
    """A run starts, or resumes from a checkpoint; no step has been made yet."""


@hookspec
def fourm_step(run: Run, step: int, metrics: Mapping[str, Any]) -> None:
    """Every `train.log_every` steps: the line of `metrics.jsonl`. `step` counts finished ones; None is not finite."""


@hookspec
def fourm_evaluated(run: Run, step: int, scores: Mapping[str, float | None]) -> None:
    """Held-out losses and metrics after `step` steps."""


@hookspec
def fourm_checkpoint(run: Run, step: int, folder: Path) -> None:
    """A checkpoint is complete in `folder`."""


@hookspec
def fourm_run_ended(run: Run, step: int, outcome: Literal["finished", "stopped", "failed"], error: str) -> None:
    """The run ends after `step` steps. `error` is '' unless it failed."""

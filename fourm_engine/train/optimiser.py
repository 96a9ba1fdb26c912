"""The optimiser of a run (AdamW, Muon, or a package's), its parameter groups, and its state in checkpoints.

In: a model, the `train` section, the plugin host. Out: updates, and tensors by name, `optimiser/<parameter>/<key>`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fourm_engine.device import on_host
from fourm_engine.nn.attention import stacked
from fourm_engine.train.checkpoint import CheckpointError
from fourm_plugins.activation import blame
from fourm_plugins.suggest import check_options

if TYPE_CHECKING:
    from fourm_engine.train.config import TrainConfig
    from fourm_engine.train.task import Task
    from fourm_plugins.manager import PluginManager

PREFIX = "optimiser/"


def adamw(
    groups: Iterable[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), one fused kernel."""
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, fused=True)


class Optimiser:
    """The optimiser of `train.optimiser`. Raises ValueError if it does not accept `train.optimiser_options`."""

    def __init__(self, model: nn.Module, task: Task, config: TrainConfig, host: PluginManager) -> None:
        groups = parameter_groups(model, task, config)
        if not groups:
            raise ValueError(f"{task.name}: nothing to train, the model has no parameter that requires a gradient")
        peak = config.plan(task.sample_tokens).lr
        make, self.plugin = host.optimiser(config.optimiser), host.find("optimiser", config.optimiser)
        options: dict[str, Any] = {"lr": peak}
        if config.optimiser in ("adamw", "muon"):
            options |= {"betas": config.betas, "eps": config.eps}
        try:
            check_options(make, config.optimiser_options, besides=options)
            options |= config.optimiser_options
            inspect.signature(make).bind(groups, **options)
            with blame(self.plugin):
                self.torch = make(groups, **options)
        except (ValueError, TypeError) as error:
            given = f" with {config.optimiser_options}" if config.optimiser_options else ""
            raise ValueError(f"train.optimiser={config.optimiser}{given}: {error}") from error
        if not isinstance(self.torch, torch.optim.Optimizer):
            raise ValueError(f"{self.plugin.value} returned a {type(self.torch).__name__}, not a torch.optim.Optimizer")
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self._settings, self._checked = self._of_groups(), False

    def step(self, lr: float, taken: Tensor) -> None:
        """One update with the current gradients, if the step is `taken` (a bool on the device). On a GPU, an optimiser
        that supports `found_inf`, as used by GradScaler, skips on the device; otherwise the host decides, which
        synchronises."""
        for group in self.torch.param_groups:
            group["lr"] = lr * group["lr_scale"]
        skips = getattr(self.torch, "_step_supports_amp_scaling", False)
        if skips:
            self.torch.grad_scale, self.torch.found_inf = None, None
        if skips and not on_host(taken):
            self.torch.found_inf = (~taken).float()
        elif not taken:
            return
        with blame(self.plugin):
            self.torch.step()
        if not self._checked:  # after the first step rather than at the first checkpoint, hours later
            self.tensors()
            self._checked = True

    def tensors(self) -> dict[str, Tensor]:
        """The state to save in a checkpoint. Raises ValueError if it is more than tensors per parameter."""
        named = {}
        for parameter, state in self.torch.state.items():
            name = self.names.get(parameter)
            for key, value in state.items():
                if name is None or not isinstance(value, Tensor):
                    what = f"{key!r}, a {type(value).__name__}" if name is not None else f"{key!r} of no parameter"
                    raise ValueError(f"{self._who} keeps {what}, in its state; a checkpoint holds tensors alone")
                named[f"{PREFIX}{name}/{key}"] = value
        if (now := self._of_groups()) != self._settings:
            changed = sorted({key for was, is_ in zip(self._settings, now) for key in is_ if was.get(key) != is_[key]})
            raise ValueError(
                f"{self._who} keeps {', '.join(changed)} in its parameter groups; a checkpoint holds the state of "
                f"parameters alone"
            )
        return named

    def prepare(self) -> None:
        """Create the state that a checkpoint is loaded into, by a step with learning rate 0. Loading also overwrites
        the weights."""
        gradients = {parameter: parameter.grad for parameter in self.names}
        for group in self.torch.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        if getattr(self.torch, "_step_supports_amp_scaling", False):
            self.torch.grad_scale = self.torch.found_inf = None
        with blame(self.plugin):
            self.torch.step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient

    def drop_state(self, unread: Collection[str]) -> None:
        """Drop the state of parameters that have none in the checkpoint (`unread`). Raises CheckpointError if only a
        part of a parameter's state is missing."""
        for parameter, state in list(self.torch.state.items()):
            missing = [key for key in state if f"{PREFIX}{self.names[parameter]}/{key}" in unread]
            if missing and len(missing) < len(state):
                raise CheckpointError(
                    f"{self._who}: the checkpoint lacks {', '.join(missing)} of {self.names[parameter]}; it was "
                    f"written by another version; train anew in another `run` folder"
                )
            if missing:
                del self.torch.state[parameter]

    @property
    def _who(self) -> str:
        return f"optimiser {self.plugin.name!r} of {self.plugin.distribution} {self.plugin.version}"

    def _of_groups(self) -> list[dict[str, str]]:
        groups = self.torch.param_groups
        return [{key: repr(value) for key, value in group.items() if key not in ("params", "lr")} for group in groups]


def parameter_groups(model: nn.Module, task: Task, config: TrainConfig) -> list[dict[str, Any]]:
    """Torch's parameter groups: "params", "weight_decay"; "matrices", the number of matrices stacked in each parameter
    (0: not a matrix of a block); "lr_scale", a factor of the rate that the trainer applies. Raises ValueError if
    `layer_decay` is set and the model has no order of layers."""
    decays, matrices = {id(p) for p in decay_groups(model, task)[0]}, hidden_matrices(model, task)
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if config.layer_decay is not None:
            if (above := task.layers_above(name)) is None:
                raise ValueError(f"train.layer_decay: {task.name} has no order of layers; remove it")
            scale = config.layer_decay**above
        key = id(parameter) not in decays, matrices.get(id(parameter), 0), scale
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if free else config.weight_decay, "matrices": n, "lr_scale": scale}
        for (free, n, scale), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def hidden_matrices(model: nn.Module, task: Task) -> dict[int, int]:
    """`id` of each linear layer's weight in the blocks -> the number of matrices stacked in it."""
    layers = (named for block in task.blocks(model) for named in block.named_modules())
    return {id(layer.weight): stacked(name) for name, layer in layers if isinstance(layer, nn.Linear)}


def decay_groups(model: nn.Module, task: Task) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(parameters with weight decay, parameters without). Vectors, scalars, `nn.Embedding` and parameters that the task
    excludes do not decay. Frozen parameters are in neither; a parameter shared by two modules appears once."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings and task.decays(name, parameter)
            (decayed if decays else free).append(parameter)
    return decayed, free

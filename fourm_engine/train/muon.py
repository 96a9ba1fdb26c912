"""Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for everything else, as one torch optimiser.

In: parameter groups whose `matrices` is the number of matrices stacked in each parameter (0: updated by AdamW). Out:
updates; a parameter's state is that of its optimiser. The update equals `torch.optim.Muon`'s, but stacked parameters
(queries, keys and values of an attention) are orthogonalised matrix by matrix; sharded ones are gathered first;
replicas share the work and get bitwise equal updates; and CPUs compute in float32, since many run bf16 products 50
times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from fourm_engine.train.distributed import local, rank, world_size

#: Quintic Newton-Schulz iteration: maps singular values in (0, 1] to about 1 (0.7 to 1.2).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7
#: Name -> factor of the learning rate, from the (rows, columns) of a matrix. "match_rms_adamw" (Liu et al. 2025) makes
#: updates as large as AdamW's, so that its rate and weight decay suit both; "original" is Jordan's.
ADJUSTMENTS: dict[str, Callable[[int, int], float]] = {
    "match_rms_adamw": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
    "original": lambda rows, columns: max(1.0, rows / columns) ** 0.5,
}


class Muon(torch.optim.Optimizer):
    """Muon and AdamW in one. Raises ValueError for settings out of range, and if no parameter is a matrix of a
    block."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        muon_lr: float | None = None,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
    ) -> None:
        groups = list(groups)
        if not any(group["matrices"] for group in groups):
            raise ValueError("muon is for matrices in blocks, and this model has none; choose adamw")
        if muon_lr is not None and not muon_lr > 0:
            raise ValueError(f"muon_lr={muon_lr} must be above 0")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        if not (isinstance(ns_steps, int) and 1 <= ns_steps < 100):
            raise ValueError(f"ns_steps={ns_steps} must be 1 to 99")
        if adjust_lr_fn not in ADJUSTMENTS:
            raise ValueError(f"adjust_lr_fn={adjust_lr_fn!r} must be {' or '.join(map(repr, ADJUSTMENTS))}")
        super().__init__(groups, {"lr": lr})
        self._step_supports_amp_scaling = True  # a step with `found_inf` = 1 changes nothing
        self.found_inf: Tensor | None = None
        self.factor = 1.0 if muon_lr is None else muon_lr / lr  # of the rate, which the trainer sets
        self.momentum, self.nesterov, self.ns_steps = momentum, nesterov, ns_steps
        self.adjust = ADJUSTMENTS[adjust_lr_fn]
        self.hidden = [group for group in self.param_groups if group["matrices"]]
        # Both share groups and state, so that setting a rate or loading a checkpoint affects both.
        rest = [group for group in self.param_groups if not group["matrices"]]
        self.adamw = torch.optim.AdamW(rest, lr=lr, betas=betas, eps=eps, fused=True) if rest else None
        if self.adamw is not None:
            self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update with the current gradients."""
        if self.adamw is not None:
            self.adamw.grad_scale, self.adamw.found_inf = None, self.found_inf  # type: ignore[attr-defined]
            self.adamw.step()
        work = [(group, p) for group in self.hidden for p in group["params"] if p.grad is not None]
        directions = [self._direction(p) for _, p in work]
        stacked = [group["matrices"] for group, _ in work]
        for (group, p), update in zip(work, orthogonalised(directions, stacked, self.ns_steps), strict=True):
            rate = group["lr"] * self.factor
            rows, columns = p.shape[0] // group["matrices"], p.shape[1]
            after = local(p) * (1 - rate * group["weight_decay"])
            after.add_(local(update), alpha=-rate * self.adjust(rows, columns))
            self._write(local(p), after)

    def _direction(self, parameter: Tensor) -> Tensor:
        """The momentum, or its look-ahead with Nesterov."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        after = state["momentum_buffer"].lerp(gradient, 1 - self.momentum)
        self._write(local(state["momentum_buffer"]), local(after))
        return gradient.lerp(after, self.momentum) if self.nesterov else after

    def _write(self, tensor: Tensor, after: Tensor) -> None:
        tensor.copy_(after if self.found_inf is None else torch.where(self.found_inf == 0, after, tensor))


def orthogonalised(directions: list[Tensor], stacked: list[int], steps: int) -> list[Tensor]:
    """Each direction with its `stacked` matrices orthogonalised, sharded as before. Every process must call it.
    Processes that hold replicas each compute a part: this saves work, and gives bitwise equal results, unlike products
    computed on different machines."""
    shared = [not isinstance(direction, DTensor) for direction in directions]
    if world_size() == 1 or not any(shared):
        return [_orthogonalised(*pair, steps) for pair in zip(directions, stacked, strict=True)]
    sizes = [direction.numel() if here else 0 for direction, here in zip(directions, shared, strict=True)]
    flat = directions[shared.index(True)].new_zeros(sum(sizes))
    updates = []
    for number, (direction, count, part) in enumerate(zip(directions, stacked, flat.split(sizes), strict=True)):
        if not shared[number]:
            updates.append(_orthogonalised(direction, count, steps))
            continue
        updates.append(part.view_as(direction))
        if number % world_size() == rank():
            updates[-1].copy_(_orthogonalised(direction, count, steps))
    dist.all_reduce(flat)
    return updates


def _orthogonalised(direction: Tensor, stacked: int, steps: int) -> Tensor:
    if isinstance(direction, DTensor):
        mesh, placements = direction.device_mesh, direction.placements
        whole = _orthogonalised(direction.full_tensor(), stacked, steps)
        return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False).redistribute(
            placements=placements
        )
    matrices = direction.view(stacked, -1, direction.shape[1])
    return newton_schulz(matrices, steps).view_as(direction).to(direction.dtype)


def newton_schulz(x_KRC: Tensor, steps: int = 5) -> Tensor:
    """Approximate nearest (semi-)orthogonal matrices: `x` = U S V^T -> U S' V^T with S' about 1."""
    x_KRC = x_KRC.to(torch.float32 if x_KRC.device.type == "cpu" else torch.bfloat16)
    tall = x_KRC.shape[1] > x_KRC.shape[2]
    x = x_KRC.mT if tall else x_KRC
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)  # no singular value is above 1
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x

"""Recomputes a kept step, to find the first module whose output or gradient is not finite.

In: a learner with the run's weights, and a step read by `nonfinite.read_step`. Out: the findings, as lines of text.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourm_engine.train.distributed import describe, seed_of
from fourm_engine.train.learner import Learner
from fourm_engine.train.nonfinite import KeptStep
from fourm_plugins.errors import one_line


def examine(learner: Learner, kept: KeptStep, path: Path) -> list[str]:
    """Recompute the step read from `path` with the learner's weights, micro-batch by micro-batch, until a value is not
    finite. Returns the findings, as lines of text. Raises ValueError if its ids or shapes do not fit the model."""
    try:
        return _findings(learner, kept)
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"{path}: does not fit this run's model; of another run, or damaged: {describe(error)}"
        ) from None


def _findings(learner: Learner, kept: KeptStep) -> list[str]:
    weights = learner.task.weights(kept.counts, kept.step)
    scale = {n: weights.get(n, 0.0) / count for n, count in kept.counts.items() if count > 0}
    torch.manual_seed(seed_of(learner.seed, kept.step, kept.rank))
    total_of_all = 0.0
    for number, (batch, names) in enumerate(zip(kept.batches, kept.samples, strict=True)):
        state, batch = torch.get_rng_state(), batch.to(learner.device)
        where = f"micro-batch {number + 1} of {len(kept.batches)}"
        seen = _Seen()
        with seen.forward(learner.model), learner.autocast():
            sums = learner.task.loss(learner.model, batch, kept.step).sums
        total = _total(sums, scale)
        total_of_all += float(total.detach())
        if seen.first is not None or not total.isfinite():
            terms = [name for name, value in sums.items() if not value.isfinite().all()]
            first = f"{where}, forward: " + (seen.first or "every module's output is finite, the loss is not")
            at = [names[row] for row in seen.rows if row < len(names)] if seen.size == len(names) else []
            return [
                first,
                *([f"terms that are not finite: {', '.join(terms)}"] if terms else []),
                *_samples(at or names, "" if at else "one of the "),
            ]
        torch.set_rng_state(state)
        with seen.backward(learner.model), learner.autocast(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anomaly detection repeats the same in many lines
            anomaly = _backward(learner, batch, kept.step, scale)
        if anomaly is not None:
            return [
                f"{where}, backward: {seen.culprit() or 'outside of all modules'} gave the first gradient that is not "
                f"finite ({anomaly})",
                *_samples(names, "one of the "),
            ]
    norm = learner.gradients.norm()
    return [f"with these weights everything is finite: loss {total_of_all:.4g}, gradient norm {float(norm):.4g}"]


def _total(sums: Mapping[str, Tensor], scale: Mapping[str, float]) -> Tensor:
    total = sum(scale.get(name, 0.0) * value.float() for name, value in sums.items())
    assert isinstance(total, Tensor)
    return total


def _samples(names: list[str], which: str) -> list[str]:
    return [f"{which}samples: {', '.join(names)}"] if names else []


def _backward(learner: Learner, batch: Any, step: int, scale: dict[str, float]) -> str | None:
    """Run the forward and backward pass. Returns the message of torch's anomaly detection if it raises, else None."""
    try:
        with torch.autograd.detect_anomaly(check_nan=True):
            _total(learner.task.loss(learner.model, batch, step).sums, scale).backward()
    except RuntimeError as error:
        if "returned nan values" not in str(error):
            raise
        return one_line(error)
    bad = [n for n, p in learner.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"infinite at {', '.join(bad[:3])}" if bad else None


@dataclass
class _Seen:
    """Observations of hooks on all modules: the first output that is not finite, and the modules backward is in."""

    first: str | None = None
    rows: list[int] = field(default_factory=list)
    size: int = 0
    inside: list[str] = field(default_factory=list)
    gradient: str = ""

    @contextmanager
    def forward(self, model: nn.Module) -> Iterator[None]:
        def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if self.first is not None or tensor.isfinite().all():
                    continue
                bad = ~tensor.detach().isfinite()
                given = [t.detach() for t in _tensors(inputs)]
                largest = max((float(t.abs().max()) for t in given if t.numel()), default=0.0)
                self.first = (
                    f"{_named(name, module)} gave the first numbers that are not finite: {int(bad.sum())} of "
                    f"{bad.numel()}, {int(tensor.isnan().sum())} of them nan; its inputs reach {largest:.4g}"
                )
                self.size = len(bad) if bad.ndim else 0
                self.rows = bad.reshape(len(bad), -1).any(1).nonzero()[:, 0].tolist() if bad.ndim else []

        with _hooked(
            module.register_forward_hook(lambda m, i, o, name=name: look(name, m, i, o))
            for name, module in model.named_modules()
        ):
            yield

    @contextmanager
    def backward(self, model: nn.Module) -> Iterator[None]:
        def enter(name: str, module: nn.Module, grads: Any) -> None:
            self.inside.append(_named(name, module))

        def leave(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
            if (named := _named(name, module)) in self.inside:
                self.inside.remove(named)
            finite = [all(bool(t.isfinite().all()) for t in _tensors(grads)) for grads in (inputs, outputs)]
            if not self.gradient and finite == [False, True]:
                self.gradient = named

        with _hooked(
            hook
            for name, module in model.named_modules()
            for hook in (
                module.register_full_backward_pre_hook(lambda m, g, name=name: enter(name, m, g)),
                module.register_full_backward_hook(lambda m, i, o, name=name: leave(name, m, i, o)),
            )
        ):
            yield

    def culprit(self) -> str:
        """The module whose gradients were finite when backward entered it, and not when it left it."""
        return self.gradient or (self.inside[-1] if self.inside else "")


@contextmanager
def _hooked(handles: Iterator[Any]) -> Iterator[None]:
    hooks = list(handles)
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _named(name: str, module: nn.Module) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a value, including nested containers."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))

"""Steps that are not finite: record them, and compute one again to find the cause.

In: the batches of each step. Out: for a skipped step, a line in `metrics.jsonl` with the names of its samples and, in
`<run>/not-finite/`, a safetensors file from each process whose loss was not finite (from each process, if only
gradients were not); from such a file, the module that first produces numbers which are not finite.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fourm_engine.data.order import Share
from fourm_engine.files import replacing_file
from fourm_engine.identity import digest
from fourm_engine.train.distributed import attempt, describe, gather_json, rank, seed_of
from fourm_engine.train.outcome import AHEAD, Outcome
from fourm_engine.train.step import Learner
from fourm_engine.train.task import Task
from fourm_plugins.counting import counted

FOLDER, FORMAT = "not-finite", 3
#: Maximum number of steps whose batches are kept; later ones are only named.
KEPT = 5
#: Far beyond the batches of a step; what is larger is not read.
MAX_BYTES = 1 << 32
_FACTS = "fourm.step"  # key of the header


class NotFinite:
    """Records the skipped steps of a run in its folder `run`."""

    def __init__(self, task: Task, share: Share, run: Path) -> None:
        self.task, self.share, self.folder = task, share, run / FOLDER
        # The outcome of a step may become known some steps later.
        self._recent: deque[tuple[int, list[Any], dict[str, float]]] = deque(maxlen=AHEAD + 1)

    def step(self, step: int, batches: list[Any], counts: dict[str, float]) -> None:
        """Call before each step, with its micro-batches on the CPU and its global counts."""
        self._recent.append((step, batches, counts))

    def skipped(self, outcome: Outcome) -> tuple[dict[str, Any], str]:
        """(facts for the metrics, words for the user) about a skipped step. Every process calls it. A disk that takes
        no file is not an error."""
        here = gather_json(outcome.here)
        concerned = not outcome.here or all(here)
        batches, counts = next((batches, counts) for step, batches, counts in self._recent if step == outcome.step)
        names = [self.task.sample_names(outcome.step, micro, self.share) for micro in range(len(batches))]
        facts = {"step": outcome.step, "rank": rank(), "counts": counts, "samples": names, "format": FORMAT}
        facts["task"] = digest(self.task.identity())
        path, caught = attempt(lambda: self._keep(facts, batches) if concerned else None)
        told = gather_json([[name for each in names for name in each] if concerned else [], path, str(caught or "")])
        samples = [name for each, _, _ in told for name in each]
        files = [path for _, path, _ in told if path]
        words = f"; its {counted(len(samples), 'sample is', 'samples are')} named in metrics.jsonl" if samples else ""
        if files:
            words += f"; add --replay {files[0]} to the command to see where it begins"
        if errors := [error for _, _, error in told if error]:
            words += f"; not kept: {errors[0]}"
        return {"samples": samples, "files": files}, words

    def _keep(self, facts: dict[str, Any], batches: list[Any]) -> str | None:
        if not self.task.replays:
            return None
        path = self.folder / f"step-{facts['step'] + 1:08d}-rank-{rank():05d}.safetensors"
        steps = {name.name[:13] for name in self.folder.glob("step-*.safetensors")}
        if len(steps | {path.name[:13]}) > KEPT:
            return None
        tensors = {
            f"{micro}/{name}": tensor.clone()
            for micro, batch in enumerate(batches)
            for name, tensor in self.task.tensors_of(batch).items()
        }
        facts = {**facts, "digest": _digest(facts, tensors)}
        with replacing_file(path) as temporary:
            save_file(tensors, temporary, metadata={_FACTS: json.dumps(facts)})
        return str(path)


def _digest(facts: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of facts, as JSON, and of tensors."""
    sha = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


@dataclass(frozen=True)
class KeptStep:
    """One process's step: its micro-batches, and the names of their samples."""

    step: int
    rank: int
    counts: dict[str, float]
    samples: list[list[str]]
    batches: list[Any]


def read_step(path: Path, task: Task) -> KeptStep:
    """Read a step that a process kept. Raises ValueError."""
    if path.exists() and not path.is_file():  # a pipe or a device would never end
        raise ValueError(f"{path}: not a file; runs keep such steps in {FOLDER}/")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{size} bytes, more than the batches of a step")
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "null"))
            if not isinstance(facts, dict) or "format" not in facts:
                raise ValueError("its header says nothing of a step")
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']!r:.20}, this version reads {FORMAT}")
            if facts["task"] != digest(task.identity()):
                raise ValueError("of a run with another model, vocabulary or data")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.pop("digest") != _digest(facts, tensors):
            raise ValueError("not the content that was written: damaged or edited")
        batches = []
        if len(facts["samples"]) != len({name.partition("/")[0] for name in tensors}):
            raise ValueError("other micro-batches than samples")
        for micro in range(len(facts["samples"])):
            start = f"{micro}/"
            batches.append(task.batch_of({n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}))
        counts = {name: float(count) for name, count in facts["counts"].items()}
        if not batches or not all(math.isfinite(count) and count >= 0 for count in counts.values()):
            raise ValueError("no samples, or counts that are none")
        for number in (facts["step"], facts["rank"]):
            if type(number) is not int or not 0 <= number < 1 << 62:
                raise ValueError(f"step or rank {number!r}")
        names = [[str(name) for name in micro] for micro in facts["samples"]]
        return KeptStep(facts["step"], facts["rank"], counts, names, batches)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; runs keep such steps in {FOLDER}/") from None
    # Others may have written it: no number, an id that is none, lists too deep.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as e:
        raise ValueError(f"{path}: not a step that a run of this task has kept: {describe(e)}") from None


def examine(learner: Learner, kept: KeptStep, path: Path) -> list[str]:
    """Compute the step read from `path` again, with the learner's weights, micro-batch by micro-batch, until something
    is not finite; returns the findings, in lines. Raises ValueError if its ids or shapes do not fit the model."""
    try:
        return _examine(learner, kept)
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"{path}: does not fit this run's model; of another run, or damaged: {describe(error)}"
        ) from None


def _examine(learner: Learner, kept: KeptStep) -> list[str]:
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
            warnings.simplefilter("ignore")  # of anomaly detection, which says the same in many lines
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
    """The message of torch's anomaly detection, if it stops the pass."""
    try:
        with torch.autograd.detect_anomaly(check_nan=True):
            _total(learner.task.loss(learner.model, batch, step).sums, scale).backward()
    except RuntimeError as error:
        if "returned nan values" not in str(error):
            raise
        return " ".join(str(error).split())
    bad = [n for n, p in learner.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"infinite at {', '.join(bad[:3])}" if bad else None


@dataclass
class _Seen:
    """What hooks on all modules have seen: the first output that is not finite, and the modules that backward is in."""

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
    made = list(handles)
    try:
        yield
    finally:
        for handle in made:
            handle.remove()


def _named(name: str, module: nn.Module) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in a value, including those in containers."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))

"""Keeps steps whose loss or gradients are not finite, and reads them back.

In: the batches of each step. Out: for a skipped step, a line in `metrics.jsonl` with the names of its samples and, in
`<run>/not-finite/`, a safetensors file from each process whose loss was not finite (from every process, if only the
gradients were not), which `replay` analyses.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fourm_engine.data.order import Share
from fourm_engine.files import replacing_file
from fourm_engine.identity import digest
from fourm_engine.train.distributed import attempt, describe, gather_json, rank
from fourm_engine.train.outcome import AHEAD, Outcome
from fourm_engine.train.task import Task
from fourm_engine.weights import tensor_file
from fourm_plugins.counting import counted

FOLDER, FORMAT = "not-finite", 3
#: Maximum number of steps whose batches are kept; of later ones only the sample names are.
KEPT = 5
#: Maximum size of a file to read; far more than the batches of a step.
MAX_BYTES = 1 << 32
_FACTS = "fourm.step"  # key of the header
#: Errors of reading a file of unknown origin: invalid numbers or ids, lists nested too deeply.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


class NotFinite:
    """Records the skipped steps of a run in its folder `run`."""

    def __init__(self, task: Task, share: Share, run: Path) -> None:
        self.task, self.share, self.folder = task, share, run / FOLDER
        # The outcome of a step may only be known some steps later.
        self._recent: deque[tuple[int, list[Any], dict[str, float]]] = deque(maxlen=AHEAD + 1)

    def remember(self, step: int, batches: list[Any], counts: dict[str, float]) -> None:
        """Call before each step, with its micro-batches on the CPU and its global counts."""
        self._recent.append((step, batches, counts))

    def record(self, outcome: Outcome) -> tuple[dict[str, Any], str]:
        """(fields for the metrics, text for the user) about a skipped step. Every process must call it. Failing to
        write the file is not an error."""
        here = gather_json(outcome.local_finite)
        concerned = not outcome.local_finite or all(here)
        batches, counts = next((batches, counts) for step, batches, counts in self._recent if step == outcome.step)
        names = [self.task.sample_names(outcome.step, micro, self.share) for micro in range(len(batches))]
        facts = {"step": outcome.step, "rank": rank(), "counts": counts, "samples": names, "format": FORMAT}
        facts["task"] = digest(self.task.identity())
        path, caught = attempt(lambda: self._keep(facts, batches) if concerned else None)
        kept = [name for micro in names for name in micro] if concerned else []
        reports = gather_json([kept, path, str(caught or "")])
        if caught is not None and not isinstance(caught, Exception):
            raise caught  # a second Ctrl-C
        samples = [name for names, _, _ in reports for name in names]
        files = [path for _, path, _ in reports if path]
        words = f"; its {counted(len(samples), 'sample is', 'samples are')} named in metrics.jsonl" if samples else ""
        if files:
            words += f"; add --replay {files[0]} to the command to see where it begins"
        if errors := [error for _, _, error in reports if error]:
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
    """SHA-256 of `facts`, as JSON, and of the tensors."""
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
        with tensor_file(path) as file:
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
    except _UNREADABLE as e:
        raise ValueError(f"{path}: not a step that a run of this task has kept: {describe(e)}") from None

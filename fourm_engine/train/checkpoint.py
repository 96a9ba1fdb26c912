"""Checkpoints on disk: folders `step-00001000/` of safetensors files and one JSON file. Nothing is pickled, which rules
out `torch.distributed.checkpoint`: it pickles its metadata.

    state.json                       format, step, the trainer's state, size and digest of every part; a checksum
                                     of all these
    part-00000-of-00002.safetensors  the rows that process 0 wrote; the header says which rows of which tensor

In: a folder, and named tensors, whole or sharded by rows (DTensor). Out: these tensors, filled. Any number of processes
can read what any other number wrote (see `checkpoint_manager`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from fourm_engine.data.columns import OtherVersion, unsealed
from fourm_engine.files import check_shortage
from fourm_engine.train.distributed import first_row, local
from fourm_engine.weights import StoredTensor, sha256_of, tensor_file
from fourm_plugins.counting import some

FORMAT = 5
MAX_STATE_BYTES = 1 << 26
#: The key of a task's identity that holds the number of samples.
SAMPLES = "data.samples"
NAME = re.compile(r"step-(\d{8,})")
#: The trainer's state besides tensors: keys and types.
STATE = {"identity": dict, "versions": dict, "config": dict, "progress": dict, "ema": bool}
ROWS = "fourm.rows"  # key of the header: JSON {tensor: [first row, rows of the whole tensor]}


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message names the path."""


class OtherFormat(CheckpointError):
    """A checkpoint was written by another version."""


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # finished steps
    skipped: int = 0  # of these, skipped
    in_a_row: int = 0  # skipped in a row, up to now
    averaged: int = 0  # updates of the moving average


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk. `state`: the trainer's state, as JSON."""

    folder: Path
    step: int
    files: tuple[str, ...]
    state: dict[str, Any]


def step_folder(folder: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}"


def part_name(number: int, parts: int) -> str:
    return f"part-{number:05d}-of-{parts:05d}.safetensors"


def open_checkpoint(folder: Path, *, share: tuple[int, int] = (0, 1)) -> Checkpoint:
    """Open a checkpoint and verify its format and the sizes and digests of its parts. With `share` = (i, n), only the
    digests of parts i, i + n, … are computed, so that n processes together verify all. Raises CheckpointError."""
    path = folder / "state.json"
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_STATE_BYTES} bytes, and so not the state of a checkpoint")
        document = unsealed(path.read_bytes(), FORMAT)
        files = dict(document["files"])
        names = tuple(part_name(number, len(files)) for number in range(len(files)))
        if sorted(files) != list(names) or not files:
            raise CheckpointError(f"{path}: parts are missing or renamed; the checkpoint is damaged")
        for number, name in enumerate(names):
            facts = {"bytes": (folder / name).stat().st_size}
            if facts["bytes"] == files[name]["bytes"] and number % share[1] == share[0]:
                facts = facts_of(folder / name)
            if any(files[name][key] != fact for key, fact in facts.items()):
                raise CheckpointError(f"{folder / name}: not the file that was saved, damaged or truncated")
        step, named = document["step"], NAME.fullmatch(folder.name)
        if type(step) is not int or step < 0 or (named and int(named[1]) != step):
            raise CheckpointError(f"{path}: says step {step!r}; the folder was renamed, or the file was edited")
        return Checkpoint(folder, step, names, dict(document["state"]))
    except CheckpointError:
        raise
    except OtherVersion as other:
        remedy = "train anew in another `run` folder" if other.older else "update fourm-engine"
        raise OtherFormat(f"{path}: {other}; {remedy}") from None
    except OSError as error:
        check_shortage(error)
        raise CheckpointError(f"{error.filename or path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint's state, damaged or edited: {error}") from None


def nearest(folder: Path, step: int) -> Checkpoint:
    """The intact checkpoint in `folder` that is nearest to `step`. Raises CheckpointError if there is none."""
    for saved in sorted(steps_in(folder), key=lambda saved: abs(saved - step)):
        with suppress(CheckpointError):
            return open_checkpoint(step_folder(folder, saved))
    raise CheckpointError(f"{folder}: no checkpoint, or none that can be read")


def steps_in(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))


def facts_of(path: Path) -> dict[str, Any]:
    """Size and digest of a part."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def load(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    *,
    optional: tuple[str, ...] = (),
    whole: tuple[str, ...] = (),
) -> set[str]:
    """Copy the checkpoint into `tensors` in place; each process reads its own rows.

    Tensors whose names start with one of `optional` may be missing from the checkpoint: they are left unchanged, and
    their names are returned. Every name in the checkpoint that starts with one of `whole` must be in `tensors`.

    Raises CheckpointError for a tensor that is missing, unexpected, or of another shape."""
    missing, read = set(tensors), dict[str, list[tuple[int, int]]]()  # which rows of each, [first, stop)
    for file in checkpoint.files:
        path = checkpoint.folder / file
        try:
            with tensor_file(path) as reader:
                rows = json.loads((reader.metadata() or {})[ROWS])
                if more := sorted(name for name in rows.keys() - tensors.keys() if name.startswith(whole)):
                    raise CheckpointError(f"{path}: {more[0]} is not part of what is trained now")
                for name in tensors.keys() & rows.keys():
                    source, (first, total) = reader.get_slice(name), rows[name]
                    _copy_rows(tensors[name], source, first, total, where=f"{path}: {name}")
                    read.setdefault(name, []).append((first, first + [*source.get_shape(), 1][0]))
                    if _cover(read[name], total):
                        missing.discard(name)
        except CheckpointError:
            raise
        except (OSError, SafetensorError, AttributeError, KeyError, ValueError, TypeError, RecursionError) as error:
            check_shortage(error)
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if needed := sorted(name for name in missing if name in read or not name.startswith(optional)):
        raise CheckpointError(f"{checkpoint.folder}: lacks {some(needed)}; it belongs to another model")
    return missing


def _cover(ranges: list[tuple[int, int]], total: int) -> bool:
    """Whether these ranges cover all `total` rows."""
    end = 0
    for first, stop in sorted(ranges):
        if first > end:
            return False
        end = max(end, stop)
    return end >= total


def _copy_rows(target: Tensor, source: StoredTensor, first: int, total: int, *, where: str) -> None:
    """Copy into `target` those of this process's rows that `source`, rows [first, first + n) of the tensor, holds."""
    shape = tuple(source.get_shape())
    if not (type(first) is type(total) is int and first >= 0 and first + [*shape, 1][0] <= total):
        raise CheckpointError(f"{where}: rows from {first!r} of {total!r}; the file was edited")
    whole = (total, *shape[1:]) if shape else shape
    if tuple(target.shape) != whole:
        raise CheckpointError(f"{where}: shape {list(whole)} in the checkpoint, {list(target.shape)} in the model")
    with torch.no_grad():
        if not isinstance(target, DTensor):
            destination, begin = target, 0
        else:
            destination, begin = local(target), first_row(target)
        low, high = max(first, begin), min(first + [*shape, 1][0], begin + [*destination.shape, 1][0])
        if low >= high:
            return
        if source.dtype != target.dtype:  # a cast would lose precision, and the run would change
            kinds = f"{source.dtype} in the checkpoint, {target.dtype} in the model".replace("torch.", "")
            raise CheckpointError(f"{where}: {kinds}; it was edited, or saved by another version of the optimiser")
        if shape:
            source.fill(destination[low - begin : high - begin], low - first)
        else:
            source.fill(destination)


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The trainer's state besides tensors. Raises CheckpointError if a key is missing or invalid."""
    saved, path = checkpoint.state, checkpoint.folder / "state.json"
    remedy = "damaged or edited; move this checkpoint away to go on from the one before"
    for name, kind in STATE.items():
        if not isinstance(saved.get(name), kind):
            raise CheckpointError(f"{path}: state: no {name!r}, or something else; {remedy}")
    counts = {field.name for field in fields(Progress)} - {"step"}
    for name, number in saved["progress"].items():
        if name not in counts or type(number) is not int or number < 0:
            raise CheckpointError(f"{path}: state: progress: {name} is {number!r}; {remedy}")
    for name, version in saved["versions"].items():
        if not isinstance(version, str):
            raise CheckpointError(f"{path}: state: versions: {name} is {version!r}; {remedy}")
    return saved

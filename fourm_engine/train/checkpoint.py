"""Checkpoints: folders `step-00001000/` of safetensors and one JSON file; nothing is pickled.
(`torch.distributed.checkpoint` pickles its metadata, so it is not used.)

    state.json                       format, step, what the trainer adds, and the size of every file
    part-00000-of-00002.safetensors  the rows of every tensor that process 0 holds; its header says which rows

In: named tensors, whole or sharded by rows (DTensor). Any number of processes reads what any other number wrote, over a
folder that all of them see. A save is written to `step-….part` and renamed when every process has finished, so a folder
without that suffix is complete; a save that fails or is killed leaves the earlier ones as they were.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from fourm_engine.files import settle, sync_folder, writing
from fourm_engine.identity import PREFIX, Difference, compare, refuse
from fourm_engine.train.distributed import attempt, describe, first_row, gather_json, local, rank, together, world_size
from fourm_plugins.modality import flat

FORMAT = 3
MAX_STATE_BYTES = 1 << 26
#: Of what a task is made from: how many samples.
SAMPLES = "data.samples"
_NAME = re.compile(r"step-(\d{8,})")
_PART = re.compile(r"part-\d{5}-of-\d{5}\.safetensors")
_ROWS = "fourm.rows"  # key of the header: JSON {tensor: [first row, rows of the whole tensor]}


class CheckpointError(ValueError):
    """A checkpoint could not be written or read; the message names the path."""


class OtherFormat(CheckpointError):
    """A checkpoint was written by another version."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk. `state` is what `Checkpoints.save` was given."""

    folder: Path
    step: int
    files: tuple[str, ...]
    state: dict[str, Any]


class Checkpoints:
    """Saves below `folder`, the newest `keep` of them. With `background` the tensors are copied to the host at once and
    written by a thread, one save in flight. `report` gets a line for the user about each damaged checkpoint."""

    def __init__(self, folder: Path, *, keep: int, background: bool, report: Callable[[str], None]) -> None:
        self.folder = folder
        self.keep = keep
        self.background = background
        self.report = report
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None  # of a save, in all processes; raised by `finish`
        self.saved: int | None = None  # step of the newest complete checkpoint
        # Its own group: the thread's messages must not meet those of the running steps.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        if rank() == 0:
            for stale in [*folder.glob("step-*.part"), *folder.glob("step-*.old")]:
                shutil.rmtree(stale, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint, the same in every process; damaged ones are reported and skipped."""
        name = together(lambda: self._newest_name() if rank() == 0 else None, self._group)
        name = gather_json(name, self._group)[0]
        if name is None:
            return None
        checkpoint = together(lambda: open_checkpoint(self.folder / name), self._group)
        self.saved = checkpoint.step
        return checkpoint

    def _newest_name(self) -> str | None:
        if not self.folder.is_dir():
            return None
        steps = sorted((int(m[1]), p) for p in self.folder.iterdir() if (m := _NAME.fullmatch(p.name)))
        for _, path in reversed(steps):
            try:
                open_checkpoint(path)
            except OtherFormat:
                raise
            except CheckpointError as error:
                self.report(f"passed over: {error}")
            else:
                return path.name
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Write `tensors` (this process's part) and `state` (JSON) as the checkpoint after `step` steps. Every process
        must call it. With `background` it returns before the writing is done.

        All processes learn of a failure in any of them, and a failed save leaves nothing. An error of the disk is
        reported, `saved` stays unchanged, and the run may go on and try again. Anything else (no memory, a bug,
        Ctrl-C) ends the run: it is raised where it happened, and as a CheckpointError in the other processes, here or
        by the next call of `save` or `finish`."""
        self.finish()
        part = step_folder(self.folder, step).with_suffix(".part")
        copies: dict[str, Tensor] = {}
        rows: dict[str, tuple[int, int]] = {}

        def copy() -> None:
            # The background thread must not see the next step, and tied weights must not share memory in a file.
            for name, tensor in tensors.items():
                part_of_rank, first, total = _own_rows(tensor)
                if total:
                    rows[name] = (first, total)
                    copies[name] = part_of_rank.to("cpu", copy=True).contiguous()

        def write() -> None:
            try:
                self._write(part, step, copies, rows, state)
            except BaseException as error:
                self._failure = error

        if not self._agree(copy, part):
            return
        if self.background:
            self._thread = threading.Thread(target=write, name="checkpoint")
            self._thread.start()
        else:
            write()
            self.finish()

    def finish(self) -> None:
        """Wait for the save in flight; raises its error, unless it is one of the disk."""
        self.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Wait for the save in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, part: Path, step: int, copies: dict, rows: dict, state: dict[str, Any]) -> None:
        """Three rounds; every process takes part in each, even after a failure."""
        first = rank() == 0
        written = (
            self._agree(lambda: _fresh(part) if first else None, part)
            and self._agree(lambda: _write_part(part, copies, rows), part)
            and self._agree(lambda: self._commit(part, step, state) if first else None, part)
        )
        if written:
            self.saved = step

    def _agree(self, action: Callable[[], None], part: Path) -> bool:
        """Do this process's share. Returns True if all processes succeeded; reports and returns False if one had an
        error of the disk; raises in all processes if one failed otherwise."""
        _, caught = attempt(action)
        report = None
        if caught is not None:
            words = describe(caught)
            where = "" if str(part) in words or getattr(caught, "filename", None) else f"{part}: "
            report = [isinstance(caught, (OSError, SafetensorError)), where + words]
        errors = [error for error in gather_json(report, self._group) if error is not None]
        if not errors:
            return True
        if rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
        gather_json(None, self._group)  # no process goes on before nothing is left
        if caught is not None and not isinstance(caught, Exception):
            raise caught  # Ctrl-C or a request to exit; the others have been told
        of_disk = all(disk for disk, _ in errors)
        words = next(words for disk, words in errors if disk == of_disk)
        if of_disk:
            self.report(f"checkpoint not saved: {words}; free space or choose another folder. Earlier ones are intact")
            return False
        raise CheckpointError(f"checkpoint not saved: {words}. Earlier checkpoints are intact") from caught

    def _commit(self, part: Path, step: int, state: dict[str, Any]) -> None:
        final = part.with_suffix("")
        files = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
        document = {"format": FORMAT, "step": step, "files": files, "state": state}
        with writing(part / "state.json"):
            (part / "state.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
            settle(part / "state.json")
        if final.exists():  # the same step again, after an earlier one was resumed
            _remove(final)
        os.rename(part, final)
        sync_folder(self.folder)
        steps = sorted((int(m[1]), p) for p in self.folder.iterdir() if (m := _NAME.fullmatch(p.name)))
        for _, old in [entry for entry in steps if entry[0] <= step][: -self.keep]:
            _remove(old)


def step_folder(folder: Path, step: int) -> Path:
    """Path of the checkpoint after `step` steps below `folder`."""
    return folder / f"step-{step:08d}"


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check that a checkpoint is whole (format, files, sizes). Raises CheckpointError."""
    path = folder / "state.json"
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_STATE_BYTES} bytes; this is no checkpoint's state")
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            older = isinstance(document["format"], int) and document["format"] < FORMAT
            remedy = "train anew in another `run` folder" if older else "update fourm-engine"
            raise OtherFormat(f"{path}: format {document['format']}, this version reads {FORMAT}; {remedy}")
        files = dict(document["files"])
        for name, size in files.items():
            if not _PART.fullmatch(name) or (folder / name).stat().st_size != size:
                raise CheckpointError(f"{folder / name}: not the file that was saved, damaged or truncated")
        return Checkpoint(folder, int(document["step"]), tuple(files), dict(document["state"]))
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint's state: {error}") from None


def load(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    *,
    optional: tuple[str, ...] = (),
    whole: tuple[str, ...] = (),
) -> set[str]:
    """Copy the checkpoint into `tensors` in place, each process its own rows.

    Names in `tensors` that start with one of `optional` may be missing in the checkpoint; they stay as they are and are
    returned. Of names that start with one of `whole`, everything that the checkpoint holds must be in `tensors`.
    Raises CheckpointError: a tensor is missing, is too much, or has another shape."""
    missing = set(tensors)
    for file in checkpoint.files:
        path = checkpoint.folder / file
        try:
            with safe_open(path, framework="pt", device="cpu") as reader:
                rows = json.loads((reader.metadata() or {})[_ROWS])
                if more := sorted(name for name in rows.keys() - tensors.keys() if name.startswith(whole)):
                    raise CheckpointError(f"{path}: {more[0]} has no place in what is trained now")
                for name in tensors.keys() & rows.keys():
                    _copy_rows(tensors[name], reader.get_slice(name), *rows[name], where=f"{path}: {name}")
                    missing.discard(name)
        except CheckpointError:
            raise
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if needed := sorted(name for name in missing if not name.startswith(optional)):
        raise CheckpointError(f"{checkpoint.folder}: lacks {', '.join(needed[:5])}; it belongs to another model")
    return missing


def _own_rows(tensor: Tensor) -> tuple[Tensor, int, int]:
    """(this process's rows, the first one's number, rows of the whole); the last is 0 where another process writes
    them."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), 0, 0 if rank() else max(1, len(tensor) if tensor.ndim else 1)
    mesh, part = tensor.device_mesh, tensor.to_local().detach()
    if mesh.get_local_rank(0) > 0 or (part.numel() == 0 and tensor.numel() > 0):
        return part, 0, 0
    return part, first_row(tensor), len(tensor)


def _copy_rows(target: Tensor, source: Any, first: int, total: int, *, where: str) -> None:
    """Copy what rows [first, first + n) of a saved tensor have in common with this process's rows of `target`."""
    shape = tuple(source.get_shape())
    whole = (total, *shape[1:]) if shape else shape
    if tuple(target.shape) != whole:
        raise CheckpointError(f"{where}: shape {list(whole)} in the checkpoint, {list(target.shape)} in the model")
    with torch.no_grad():
        if not isinstance(target, DTensor):
            destination, begin = target, 0
        else:
            destination, begin = local(target), first_row(target)
        if not shape:
            destination.copy_(source[...])
            return
        low, high = max(first, begin), min(first + shape[0], begin + len(destination))
        if low < high:
            destination[low - begin : high - begin].copy_(source[low - first : high - first])


def _fresh(part: Path) -> None:
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)


def _write_part(part: Path, copies: dict[str, Tensor], rows: dict[str, tuple[int, int]]) -> None:
    path = part / f"part-{rank():05d}-of-{world_size():05d}.safetensors"
    with writing(path):
        save_file(copies, path, metadata={_ROWS: json.dumps(rows)})
        settle(path)


def _remove(folder: Path) -> None:
    """Rename first, so that an interrupted removal leaves nothing that looks complete."""
    old = folder.with_suffix(".old")
    os.rename(folder, old)
    shutil.rmtree(old)


def check_same_run(
    folder: Path,
    saved: Mapping[str, Any],
    identity: Mapping[str, Any],
    versions: Mapping[str, str],
    defaults: Mapping[str, Any],
) -> None:
    """Raise ValueError, naming the keys, where the checkpoint in `folder`, with the state `saved`, is of another run
    than that with `identity` and `versions`. `defaults`: of keys that an older checkpoint lacks."""
    now = flat(dict(identity))
    was = {key: value for key, value in defaults.items() if key in now} | flat(saved["identity"])
    gone = sorted(saved.get("versions", {}).keys() - versions.keys())
    absent = "".join(
        f"; {name} took part and does not now (pip install {saved['versions'][name].replace(' ', '==')})"
        for name in gone
    )
    differences = [Difference(key, *pair) for key, pair in compare(was, now).items()]
    # What follows from a modality's settings, such as rows of the vocabulary, says less than the setting.
    settings = [difference for difference in differences if difference.key.startswith(PREFIX)]
    # Where samples were added or taken away, so are their names, views and contents.
    if any(difference.key == SAMPLES for difference in differences):
        differences = [d for d in differences if d.key == SAMPLES or not d.key.startswith("data.")]
    refuse(settings or differences, where=folder, remedy=f"train anew in another `run` folder{absent}")

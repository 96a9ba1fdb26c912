"""Saves checkpoints in the background, removes old ones, and finds the one to resume from.

In: named tensors, whole or sharded by rows, in every process. Out: folders that `checkpoint` reads, visible to all
processes.

Each process copies its part to host memory (pinned, if it comes from a GPU), and a thread writes it. A save is written
to `step-….part` and renamed once every process has finished, so a folder without that suffix is complete, and a save
that fails or is killed leaves earlier checkpoints untouched.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from fourm_engine.data.columns import sealed
from fourm_engine.files import settle, sync_folder, writing
from fourm_engine.train.checkpoint import (
    FORMAT,
    ROWS,
    Checkpoint,
    CheckpointError,
    OtherFormat,
    facts_of,
    open_checkpoint,
    part_name,
    step_folder,
    steps_in,
)
from fourm_engine.train.distributed import (
    attempt,
    describe,
    first_row,
    gather_json,
    patience,
    rank,
    together,
    world_size,
)
from fourm_plugins.counting import counted


class CheckpointManager:
    """Keeps the newest `keep` checkpoints in `folder`, and those at multiples of `keep_every` steps. `report` receives
    one line for the user about each damaged checkpoint and each failed save."""

    def __init__(
        self, folder: Path, *, keep: int, report: Callable[[str], None], keep_every: int | None = None
    ) -> None:
        self.folder, self.keep, self.keep_every, self.report = folder, keep, keep_every, report
        self._copies = _Copies()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None  # of a save, in all processes; raised by `finish`
        self.saved: int | None = None  # step of the newest complete checkpoint
        self._damaged: set[int] = set()
        # A separate group, so that the thread's collectives do not interleave with those of the training steps.
        self._group = dist.new_group(backend="gloo", timeout=patience(None)) if world_size() > 1 else None
        if rank() == 0:
            for stale in [*folder.glob("step-*.part"), *folder.glob("step-*.old")]:
                shutil.rmtree(stale, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, the same in every process; None if there is none. The processes share the
        verification of digests; damaged checkpoints are reported and skipped. Raises CheckpointError if all are
        damaged."""
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(f"{self.folder}: a file, where checkpoints are kept; move it away")
        steps = together(lambda: steps_in(self.folder) if rank() == 0 else [], self._group)
        steps = gather_json(steps, self._group)[0]
        passed = dict[int, str]()
        for step in reversed(steps):
            opened = partial(open_checkpoint, step_folder(self.folder, step), share=(rank(), world_size()))
            checkpoint, caught = attempt(opened)
            damaged = isinstance(caught, CheckpointError) and not isinstance(caught, OtherFormat)
            reports = gather_json(None if caught is None else [damaged, describe(caught)], self._group)
            errors = [error for error in reports if error is not None]
            if not errors:
                for later, words in passed.items():
                    again = f"{counted(later - step, 'step')} after step {step} {'is' if later - step == 1 else 'are'}"
                    self.report(f"passed over: {words}; {again} computed again")
                self.saved = step
                return checkpoint
            if caught is not None and not damaged:
                raise caught
            if fatal := [words for damaged, words in errors if not damaged]:
                raise CheckpointError(fatal[0])
            self._damaged.add(step)
            number = next(number for number, error in enumerate(reports) if error is not None)
            passed[step] = f"rank {number}: {errors[0][1]}" if len(errors) < world_size() else errors[0][1]
        for words in passed.values():
            self.report(f"passed over: {words}")
        if steps:
            raise CheckpointError(
                f"{self.folder}: none of {len(steps)} checkpoints is whole, see above; put a copy in place, or move "
                f"the folder away to train anew"
            )
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Save a snapshot of `tensors` and `state` (JSON) as the checkpoint after `step` steps. Every process must call
        it. Returns once the copies are under way; blocks only while an earlier save is still being written.

        A failure in any process fails the save in all of them, and leaves no files. A disk error is reported, `saved`
        stays unchanged, and the run may continue and try again. Any other error (out of memory, a bug, Ctrl-C) ends the
        run: the next call of `save` or `finish` raises it in the process where it occurred, and CheckpointError in the
        others."""
        self.finish()
        part = step_folder(self.folder, step).with_suffix(".part")
        _, caught = attempt(lambda: self._copies.take(tensors))

        def write() -> None:
            try:
                self._write(part, step, state, caught)
            except BaseException as error:
                self._failure = error

        # A daemon, so that a failing process exits without waiting for the disk or for other processes.
        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the save in flight. Raises its error, unless it is a disk error."""
        self.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Wait for the save in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, part: Path, step: int, state: dict[str, Any], caught: BaseException | None) -> None:
        """Write a checkpoint in three collective rounds; a process that fails still joins each of them."""
        first = rank() == 0

        def begin() -> None:
            if caught is not None:
                raise caught
            if first:
                _check_working_directory(part)
                _fresh(part)

        if self._agree(begin, part) is None or (files := self._agree(lambda: self._copies.write(part), part)) is None:
            return
        if self._agree(lambda: self._commit(part, step, files, state) if first else None, part) is not None:
            self.saved = step

    def _agree(self, action: Callable[[], Any], part: Path) -> list[Any] | None:
        """Run `action` in every process. Returns the results of all; reports a disk error in any and returns None;
        raises in all processes for any other error."""
        result, caught = attempt(action)
        report = None
        if caught is not None:
            words = describe(caught)
            where = "" if str(part) in words or getattr(caught, "filename", None) else f"{part}: "
            report = [isinstance(caught, (OSError, SafetensorError)), where + words]
        reports = gather_json([report, result], self._group)
        errors = [error for error, _ in reports if error is not None]
        if not errors:
            return [result for _, result in reports]
        if rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
        gather_json(None, self._group)  # all wait until the files are removed
        if caught is not None and not isinstance(caught, Exception):
            raise caught  # Ctrl-C or SystemExit; the other processes know
        of_disk = all(disk for disk, _ in errors)
        words = next(words for disk, words in errors if disk == of_disk)
        if of_disk:
            self.report(f"checkpoint not saved: {words}. {self._earlier()}")
            return None
        raise CheckpointError(f"checkpoint not saved: {words}. {self._earlier()}") from caught

    def _earlier(self) -> str:
        gone = self.saved is not None and not self.folder.is_dir()
        return "Earlier ones were removed, with their folder" if gone else "Earlier ones are intact"

    def _commit(self, part: Path, step: int, files: list[dict[str, Any]], state: dict[str, Any]) -> None:
        final = part.with_suffix("")
        named = {part_name(number, len(files)): facts for number, facts in enumerate(files)}
        document = {"format": FORMAT, "step": step, "files": named, "state": state}
        with writing(part / "state.json"):
            (part / "state.json").write_text(sealed(document, indent=1), encoding="utf-8")
            settle(part / "state.json")
        if final.exists():  # this step was saved before, and the run resumed from an earlier one
            _remove(final)
        os.rename(part, final)
        sync_folder(self.folder)
        self._damaged.discard(step)
        self._rotate(step)

    def _rotate(self, step: int) -> None:
        """Remove all but the `keep` newest complete checkpoints up to `step`, and those of `keep_every`."""
        saved = [earlier for earlier in steps_in(self.folder) if earlier <= step]
        oldest = [earlier for earlier in saved if earlier not in self._damaged][-self.keep :][0]
        for earlier in saved:
            if earlier < oldest and not (self.keep_every and earlier % self.keep_every == 0):
                _remove(step_folder(self.folder, earlier))


class _Rows(NamedTuple):
    """The rows of a tensor that this process writes; `total` is the number of rows of the whole tensor."""

    rows: Tensor
    first: int
    total: int


class _Copies:
    """Host copies of this process's part, in buffers reused by the next save."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._event: torch.cuda.Event | None = None

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Snapshot the tensors. On a GPU this is asynchronous: a side stream copies them after the work queued so far,
        and later work waits for the copies."""
        parts = _parts(tensors)
        self._places = {name: (part.first, part.total) for name, part in parts.items()}
        self._buffers = {name: self._buffer(name, part.rows) for name, part in parts.items()}
        on_gpu = [part.rows.device for part in parts.values() if part.rows.device.type == "cuda"]
        if not on_gpu:
            self._copy(parts)
            return
        stream, current = torch.cuda.Stream(on_gpu[0]), torch.cuda.current_stream(on_gpu[0])
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._copy(parts)
        current.wait_stream(stream)
        self._event = stream.record_event()

    def _buffer(self, name: str, rows: Tensor) -> Tensor:
        """The buffer of the last save if it fits, else a new one. Buffers never share memory, which safetensors
        rejects for tied weights."""
        last = self._buffers.get(name)
        if last is not None and last.shape == rows.shape and last.dtype == rows.dtype:
            return last
        return torch.empty(rows.shape, dtype=rows.dtype, pin_memory=rows.device.type == "cuda")

    def _copy(self, parts: Mapping[str, _Rows]) -> None:
        for name, part in parts.items():
            self._buffers[name].copy_(part.rows, non_blocking=True)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the copies to this process's file in `folder`; returns its size and digest."""
        if self._event is not None:
            self._event.synchronize()
        path = folder / part_name(rank(), world_size())
        with writing(path):
            save_file(self._buffers, path, metadata={ROWS: json.dumps(self._places)})
            settle(path)
            return facts_of(path)


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, _Rows]:
    """The rows that this process writes. Whole tensors and replicated shards are divided by size among the processes
    that hold them; every process computes the same division."""
    parts = dict[str, _Rows]()
    load: dict[int, list[int]] = {}  # number of holders -> bytes that each of them writes so far
    for name, tensor in tensors.items():
        mesh = tensor.device_mesh if isinstance(tensor, DTensor) else None
        holders, ours = (mesh.size(0), mesh.get_local_rank(0)) if mesh is not None else (world_size(), rank())
        sizes = load.setdefault(holders, [0] * holders)
        writer = sizes.index(min(sizes))
        sizes[writer] += tensor.numel() * tensor.element_size()
        if writer != ours:
            continue
        if not isinstance(tensor, DTensor):
            parts[name] = _Rows(tensor.detach(), 0, len(tensor) if tensor.ndim else 1)
        elif (rows := tensor.to_local().detach()).numel() or not tensor.numel():
            parts[name] = _Rows(rows, first_row(tensor), len(tensor))
    return parts


def _check_working_directory(part: Path) -> None:
    """Raise CheckpointError if a relative path leads nowhere for good, so that no later save can succeed either."""
    try:
        os.getcwd()
    except FileNotFoundError:
        if not part.is_absolute():
            raise CheckpointError(
                f"{part}: the folder that the command was started in was removed; start it again in another one"
            ) from None


def _fresh(part: Path) -> None:
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)


def _remove(folder: Path) -> None:
    """Remove a folder, renaming it first, so that an interrupted removal leaves nothing that looks complete."""
    old = folder.with_suffix(".old")
    os.rename(folder, old)
    shutil.rmtree(old)

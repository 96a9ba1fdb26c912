"""Trainer: the one training loop.

In: a task, a config, the run's folder, the plugin host. Out: checkpoints, metrics, the task's artefact.

A run's state is its weights, its optimiser state and the number of finished steps. Batches, the learning rate and
torch's random numbers are pure functions of (seed, step), so a run that is stopped or killed resumes from its newest
checkpoint and reaches the same result.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch

from fourm_engine.data.order import Share
from fourm_engine.device import rank_and_world
from fourm_engine.train import finished
from fourm_engine.train.best import Best, HeldOut
from fourm_engine.train.checkpoint import Checkpoint, CheckpointError, Progress, load, nearest, state_of
from fourm_engine.train.checkpoint_manager import CheckpointManager
from fourm_engine.train.config import LENGTHS, TrainConfig
from fourm_engine.train.console import print_lines
from fourm_engine.train.disk_space import disk_shortage
from fourm_engine.train.distributed import gathered, processes, rank, seed_of, together, world_size
from fourm_engine.train.exchange import Measure, evaluate, reduce_counts
from fourm_engine.train.garbage_collection import collect_at_steps
from fourm_engine.train.learner import Learner
from fourm_engine.train.metrics import Metrics
from fourm_engine.train.nonfinite import NotFinite, read_step
from fourm_engine.train.observers import Observers
from fourm_engine.train.optimiser import PREFIX as OPTIMISER
from fourm_engine.train.outcome import AHEAD, MAX_SKIPPED, Diverged, Outcome, Pending
from fourm_engine.train.pictures import draw, due
from fourm_engine.train.prefetch import Prefetcher
from fourm_engine.train.profile import Profile
from fourm_engine.train.replay import examine
from fourm_engine.train.run_identity import RunIdentity
from fourm_engine.train.run_record import record_run
from fourm_engine.train.stopping import Stopped, stop_requests
from fourm_engine.train.task import Task
from fourm_engine.train.utilisation import describe_devices, memory, peak_of_all
from fourm_engine.train.watchdog import Watchdog, watched
from fourm_plugins.counting import counted
from fourm_plugins.hookspecs import Run
from fourm_plugins.manager import PluginManager

log = logging.getLogger(__name__)
K = TypeVar("K")


class Trainer:
    """Trains `task` according to `config`, in the folder `run`; resumes from its newest checkpoint, if any.

    `accepted` is called on rank 0 once the existing files are known to belong to this run. `host` provides the
    optimiser, the schedule and the observers."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        run: Path,
        *,
        seed: int = 0,
        host: PluginManager | None = None,
        accepted: Callable[[], None] | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self.folder = run
        self.seed = seed
        self.host = host or PluginManager()
        self.accepted = accepted
        self.progress = Progress()
        self.watchdog = Watchdog(run, config.watchdog_s, lambda: self.progress.step)  # replaced in `run`

    def run(self) -> dict[str, float]:
        """Train, evaluate and export. Returns the final evaluation.

        Raises:
            ValueError: the config does not fit the processes, the task, or the checkpoint to resume.
            RankMismatch: processes are set up differently, or do not share the run's folder.
            Diverged: too many steps in a row had a loss or gradient that is not finite.
            CheckpointError: the last checkpoint could not be written.
            Stopped: on SIGTERM, Ctrl-C, SIGHUP, SIGUSR1 or a closed output pipe, after saving a checkpoint.

        The process exits if another process is lost or if there is no progress for `watchdog_s` (see `watchdog`)."""
        watch = watched(self.folder, self.config.watchdog_s, lambda: self.progress.step)
        with watch as self.watchdog, processes(self.config) as device, stop_requests() as stop:
            self.watchdog.check_shared()
            self._check()
            self._build(device)
            if self.task.evaluates_first:
                self._evaluate()
            self.watchdog.report_progress("resuming", bounded=False)
            keep, keep_every = self.config.keep, self.config.keep_every
            checkpoints = CheckpointManager(self.folder / "checkpoints", keep=keep, keep_every=keep_every, report=_warn)
            newest = checkpoints.newest()
            if newest is not None:
                self._resume(newest)
            self.best = Best(
                self.task, self.learner, self.folder, config=self.config, resumed=newest is not None, report=_warn
            )
            if (accepted := self.accepted) is not None:
                together(lambda: accepted() if rank() == 0 else None)
            if newest is not None and (scores := self._finished()) is not None:
                _tell(f"{self.folder}: {self.task.name} is trained ({counted(self.plan.steps, 'step')}); nothing to do")
                return scores
            saved = None if newest is None else newest.step
            if line := disk_shortage(self.folder, self.config, self.model, steps=self.plan.steps, saved=saved):
                _warn(line)
            try:
                return self._train(checkpoints, stop)
            finally:
                checkpoints.wait()

    def _train(self, checkpoints: CheckpointManager, stop: dict[str, int]) -> dict[str, float]:
        """Train from the current step to the end, with everything that watches a run: metrics, profile, observers."""
        first, step = rank() == 0, lambda: self.progress.step
        metrics = together(
            lambda: Metrics(self.folder, step=step(), steps=self.plan.steps, name=self.task.name, active=first)
        )
        devices, facts = describe_devices(self.device), self._facts()
        self.observers = Observers(self.host, facts, active=first)
        folder = self.folder / "profile"
        self.profile = Profile(self.config.profile, folder, rank=rank(), device=self.device, note=metrics.note)
        try:
            with record_run(facts, devices, step, active=first), self.observers.announce_run(step):
                metrics.start(sum(p.numel() for p in self.model.parameters() if p.requires_grad), devices)
                self.held_out = HeldOut(self.task, self.folder, earlier=metrics.evaluations)
                self._loop(metrics, checkpoints, stop)
                return self._complete(metrics)
        finally:
            self.profile.close()
            metrics.close()

    def replay(self, path: Path, print_fn: Callable[[str], None]) -> dict[str, float]:
        """Recompute a step that the run kept in `path`, in one process, with the weights of the nearest checkpoint, and
        report (through `print_fn`) where it stops being finite. Raises ValueError for a file that does not fit the run,
        CheckpointError if there is no checkpoint."""
        if rank_and_world()[1] > 1:
            raise ValueError("--replay computes one step in one process; start it without torchrun")
        kept = read_step(path, self.task)
        with processes(self.config) as device:
            self._check()
            self._build(device)
            checkpoint = nearest(self.folder / "checkpoints", kept.step + 1)
            self.identity.check_resumable(checkpoint.folder, state_of(checkpoint))
            weights = {name: t for name, t in self.learner.tensors().items() if name.startswith("model/")}
            load(checkpoint, weights)
            print_fn(f"step {kept.step + 1} of rank {kept.rank}, with the weights after step {checkpoint.step}")
            for line in examine(self.learner, kept, path):
                print_fn(line)
        return {}

    def _facts(self) -> Run:
        return Run(
            self.folder,
            self.task.name,
            first_step=self.progress.step,
            steps=self.plan.steps,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            processes=world_size(),
            config=self.config.model_dump(mode="json"),
        )

    def _check(self) -> None:
        self.plan = self.config.plan(self.task.sample_tokens)
        if self.config.export == "both" and type(self.task).export_averages is Task.export_averages:
            raise ValueError(f"{self.task.name}: exports one state only; set train.export to 'ema' or 'weights'")
        parts = world_size() * self.config.accumulate
        if self.config.batch_size % parts:
            raise ValueError(
                f"train.batch_size={self.config.batch_size} does not divide over {world_size()} processes x "
                f"accumulate={self.config.accumulate}; make it a multiple of {parts}"
            )
        if self.config.keep_best and self.task.monitor is None:
            raise ValueError(f"train.keep_best: {self.task.name} has no measure to compare evaluations by; remove it")
        together(lambda: self.task.check(self.config))
        self.share = Share(rank(), world_size(), self.config.batch_size, self.config.accumulate, self.task.lanes)
        self.identity = RunIdentity.agreed(self.task, self.config, self.host, seed=self.seed)

    def _build(self, device: torch.device) -> None:
        self.device, self.ahead = device, AHEAD if device.type == "cuda" else 0
        self.learner = Learner(self.task, self.config, self.plan, self.host, device=device, seed=self.seed)
        self.model = self.learner.model
        self.model.register_forward_pre_hook(lambda *_: self.watchdog.report_progress())
        self.learner.before_reduce = self.watchdog.report_progress

    def _resume(self, checkpoint: Checkpoint) -> None:
        saved = state_of(checkpoint)
        self.identity.check_resumable(checkpoint.folder, saved)
        if checkpoint.step > self.plan.steps:
            length = next(f"{n}={getattr(self.config, n)}" for n in LENGTHS if getattr(self.config, n) is not None)
            raise ValueError(
                f"{checkpoint.folder} is beyond train.{length}; raise it, or train anew in another `run` folder"
            )
        self.learner.optimiser.prepare()
        optional = (OPTIMISER,) if saved["ema"] else (OPTIMISER, "ema/")
        unread = together(lambda: load(checkpoint, self.learner.tensors(), optional=optional, whole=(OPTIMISER,)))
        self.learner.optimiser.drop_state(unread)
        self.progress = Progress(checkpoint.step, **saved["progress"])
        if (averages := self.learner.averages) and saved["ema"]:
            averages.number = self.progress.averaged
        elif averages:  # newly switched on
            averages.restart()
        _tell(f"continuing after step {checkpoint.step}, from {checkpoint.folder}")
        settings = self.config.model_dump(mode="json")
        for key in sorted(settings.keys() & saved["config"].keys()):
            if settings[key] != saved["config"][key]:
                _tell(f"note: train.{key} was {saved['config'][key]!r} before and is now {settings[key]!r}")

    def _loop(self, metrics: Metrics, checkpoints: CheckpointManager, stop: dict[str, int]) -> None:
        config, progress, began = self.config, self.progress, self.progress.step
        self.not_finite = NotFinite(self.task, self.share, self.folder)
        feed = self.feed = Prefetcher(self.task.batches(progress.step, self.share), config.accumulate, self.device)
        pending: deque[tuple[Pending, dict[str, float], tuple[float, float]]] = deque()

        def settle(ahead: int = 0) -> None:
            """Report finished steps, except the last `ahead`."""
            while len(pending) > ahead:
                self._settle(*pending.popleft(), metrics)

        with collect_at_steps() as collect:
            while progress.step < self.plan.steps:
                self.watchdog.report_progress("waiting for data")
                self.profile.start_step(progress.step + 1)
                micro_batches = feed.next_step()
                self.watchdog.report_progress("exchanging counts")
                counts, work, signals = reduce_counts(self.task, [batch for batch, _ in micro_batches], stop)
                if signals:
                    settle()
                    self._stop(signals, checkpoints)
                if work[1] and not metrics.peak:
                    metrics.set_peak(*peak_of_all(self.device, bf16=self.learner.bf16))
                self.not_finite.remember(progress.step, [batch for batch, _ in micro_batches], counts)
                compiles = config.compile and progress.step == began
                self.watchdog.report_progress("compiling" if compiles else "computing")
                outcome = self.learner.step(progress.step, [batch for _, batch in micro_batches], counts)
                pending.append((outcome, counts, work))
                progress.step += 1
                done = progress.step == self.plan.steps
                evaluates = not done and config.eval_every and progress.step % config.eval_every == 0
                saves = done or progress.step % config.checkpoint_every == 0
                if not done:
                    feed.prefetch()
                settle(0 if evaluates or saves else self.ahead)
                self.profile.end_step(progress.step)
                if evaluates:
                    self._report(metrics, self._evaluate())
                self._show(metrics)
                if saves or self.progress.in_a_row == 1:  # the weights to replay the skipped step with
                    self._save(checkpoints)
                self.observers.checkpoint(checkpoints.saved, checkpoints.folder)
                collect(progress.step)
        checkpoints.finish()
        self.observers.checkpoint(checkpoints.saved, checkpoints.folder)
        if checkpoints.saved != self.plan.steps:
            raise CheckpointError(f"{checkpoints.folder}: the trained weights could not be saved, see above")

    def _settle(self, pending: Pending, counts: dict[str, float], work: tuple[float, float], metrics: Metrics) -> None:
        """Report a step whose outcome the device has computed; on a GPU the host is a few steps ahead."""
        outcome, step = pending.read(), pending.step + 1
        self._note(outcome, metrics)
        if outcome.taken:
            samples = self.config.batch_size
            metrics.add(
                outcome.loss, outcome.sums, counts, lr=outcome.lr, norm=outcome.norm, samples=samples, work=work
            )
        if step == self.plan.steps or step % self.config.log_every == 0:
            most = memory(self.device)
            line = metrics.log(step, skipped=self.progress.skipped, waited=self.feed.waited, memory=most)
            if line:
                self.observers("fourm_step", step=step, metrics=line)
        else:
            metrics.show_progress(step)

    def _note(self, outcome: Outcome, metrics: Metrics) -> None:
        """Count and log a skipped step. Raises Diverged after too many in a row."""
        if outcome.taken:
            self.progress.in_a_row = 0
            return
        self.progress.skipped += 1
        self.progress.in_a_row += 1
        facts, words = self.not_finite.record(outcome)
        metrics.log_skipped(outcome.step + 1, facts)
        if self.progress.in_a_row == MAX_SKIPPED:
            raise Diverged(
                f"{outcome}, {MAX_SKIPPED} steps in a row; lower train.lr or raise train.warmup, and look at the data "
                f"of what is not finite. The checkpoints of earlier steps are intact"
            )
        _tell(f"{outcome}; skipped{words}")

    def _evaluate(self) -> dict[str, float]:
        """Held-out scores of the exported weights. If the averages are exported as well, their scores get the suffix
        " ema". The task keeps the scores of the last call."""
        self.watchdog.report_progress("evaluating")
        scores = {what: self._measured(self.task.evaluate, averaged=what == "ema") for what in self.config.exports}
        *beside, exported = scores.values()
        return exported | {f"{name} ema": score for other in beside for name, score in other.items()}

    def _measured(self, what: Measure[K], *, averaged: bool) -> dict[K, float]:
        return evaluate(what, self.learner, self.share, seed_of(self.seed, 0, -1), averaged=averaged)

    def _show(self, metrics: Metrics) -> None:
        """Compute the any-to-any matrix and draw pictures, when due."""
        config, step, averaged = self.config, self.progress.step, self.config.exports[-1] == "ema"
        if due(config.pairs_every, step, self.plan.steps):
            self.watchdog.report_progress("evaluating")
            began = time.monotonic()
            scores = self._measured(self.task.pairs, averaged=averaged)
            metrics.log_pairs(step, scores, time.monotonic() - began)
        if due(config.pictures_every, step, self.plan.steps):
            self.watchdog.report_progress("drawing pictures", bounded=False)
            weights = gathered(self.learner.state(averaged=averaged))
            draw(self.task, weights, self.folder, step, self.device, metrics.note)

    def _save(self, checkpoints: CheckpointManager) -> None:
        self.progress.averaged = self.learner.averages.number if self.learner.averages else 0
        progress = {key: value for key, value in asdict(self.progress).items() if key != "step"}
        state = {
            "identity": self.identity.keys,
            "versions": self.identity.versions,
            "config": self.config.model_dump(mode="json"),
            "progress": progress,
            "ema": self.learner.averages is not None,
        }
        self.watchdog.report_progress("saving a checkpoint")
        checkpoints.save(self.progress.step, self.learner.tensors(), state)

    def _report(self, metrics: Metrics, scores: dict[str, float]) -> None:
        step, last = self.progress.step, self.progress.step == self.plan.steps
        self.observers("fourm_evaluated", step=step, scores=metrics.log_scores(step, scores))
        if self.config.keep_best:
            self.watchdog.report_progress("saving the best weights", bounded=False)
            self.best.update(step, scores)
        if lines := self.held_out.lines(step, scores, last=last):
            metrics.note(*lines)

    def _stop(self, signals: list[int], checkpoints: CheckpointManager) -> None:
        step = self.progress.step
        try:
            checkpoints.finish()
            if step > 0 and checkpoints.saved != step:
                self._save(checkpoints)
                checkpoints.finish()
            self.observers.checkpoint(checkpoints.saved, checkpoints.folder)
        except CheckpointError as error:
            _warn(str(error))
        name = signal.Signals(signals[0]).name
        name += ", as nobody reads its output," if signals[0] == signal.SIGPIPE else ""
        kept = f"checkpoint at step {checkpoints.saved}" if checkpoints.saved is not None else "no checkpoint yet"
        _tell(f"stopped by {name} after step {step}, {kept}; run the same command again to continue")
        raise Stopped(128 + signals[0])

    def _complete(self, metrics: Metrics) -> dict[str, float]:
        scores = self._evaluate()
        self._report(metrics, scores)
        self.watchdog.report_progress("exporting", bounded=False)
        *beside, exported = (gathered(self.learner.state(averaged=what == "ema")) for what in self.config.exports)

        def export() -> None:
            for weights in (*beside, exported):
                if bad := [name for name, x in weights.items() if x.is_floating_point() and not x.isfinite().all()]:
                    raise ValueError(
                        f"{self.folder}: after step {self.progress.step} {counted(len(bad), 'tensor')} of the weights "
                        f"({bad[0]}, …) are not finite: nothing is exported; train anew with a smaller train.lr"
                    )
            for weights in beside:
                self.task.export_averages(weights, self.folder)
            self.task.export(exported, self.folder, scores)
            finished.write(self.folder, self.progress.step, self.config.exports, scores)

        together(lambda: export() if rank() == 0 else None)  # all processes wait for the export
        return scores

    def _finished(self) -> dict[str, float] | None:
        """The final evaluation if this run has already finished, else None."""
        at_end = self.progress.step == self.plan.steps
        return finished.read(self.folder, self.plan.steps, self.config.exports) if at_end else None


def _warn(text: str) -> None:
    if rank() == 0:
        log.warning("%s", text)


def _tell(text: str) -> None:
    if rank() == 0:
        print_lines([text], sys.stderr)

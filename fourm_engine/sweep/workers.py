"""Run trials in parallel, each in its own process; other processes may share the work.

A trial is claimed by a lock, so that the next sweep resumes a trial that was killed with its sweep. A failure is
reported in one line, and the other trials continue.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from fourm_engine.device import rank_and_world, usable_cores
from fourm_engine.evaluate.metrics_file import NAME as METRICS
from fourm_engine.evaluate.metrics_file import read_lines
from fourm_engine.recipes.fit import least_busy, unwinding_on_signals, visible_gpus
from fourm_engine.recipes.progress import PrintFn, print_line
from fourm_engine.sweep.folder import CUT, DONE, FAILED, LOG, Outcome, SweepFolder
from fourm_engine.sweep.trial import Trial
from fourm_engine.sweep.trial_config import command_of
from fourm_engine.sweep.trial_metrics import OUTPUT
from fourm_engine.train import run_record
from fourm_plugins.counting import counted, printable

#: Seconds between checks of running trials, and of other processes.
POLL_SECONDS, POLL_OTHERS_SECONDS = 0.1, 0.5
#: The sweep stops after this many failures for the same reason without a success.
MAX_SAME_FAILURES = 3
#: Number of bytes to read from the end of a log.
MAX_LOG = 1 << 14
STOPPED = 128 + signal.SIGTERM
_ERROR = re.compile(r"^fourm: error: (.*)$", re.MULTILINE)
#: Overrides with which a run that has used up its time is restarted, to evaluate its current state.
EVALUATE_NOW = (
    "train.samples=null",
    "train.tokens=null",
    "train.schedule=constant",
    "train.warmup=0",
    "train.warmup_tokens=null",
    "train.cooldown=0",
    "train.cooldown_tokens=null",
)


@dataclass
class _Running:
    trial: Trial
    process: subprocess.Popen[bytes]
    lock: ExitStack
    gpu: str | None
    #: Seconds of training before this process, and the time at which this one started training.
    before: float
    since: float | None = None
    cut: bool = False


class TrialRunner:
    """`run()` runs all `trials`. `complete` draws the values of a trial that has none when it starts; `describe`
    returns the outcome of a finished trial as text."""

    def __init__(
        self,
        folder: SweepFolder,
        trials: Sequence[Trial],
        *,
        jobs: int = 1,
        minutes: float | None = None,
        complete: Callable[[Trial], Trial] = lambda trial: trial,
        describe: Callable[[Trial], str] = lambda trial: "done",
        print_fn: PrintFn = print_line,
    ) -> None:
        self.folder, self.trials, self.jobs, self.minutes = folder, list(trials), jobs, minutes
        self.complete, self.describe, self.print_fn = complete, describe, print_fn
        self.pending = list(trials)
        self.running: list[_Running] = []
        # A trial that failed earlier is retried once.
        self.failures = {t.folder: o.failures for t in trials if (o := folder.outcome(t)) is not None}
        self.reasons: list[str] = []
        self.succeeded = False
        # None if all configs select the CPU.
        devices = {(trial.content.get("train") or {}).get("device") for trial in trials}
        self.gpus = [] if devices <= {"cpu"} else visible_gpus()

    def run(self) -> None:
        """Return when every trial has ended, here or in another process. Signals that stop this process (Ctrl-C,
        SIGTERM, SIGHUP) stop its trials, which save their state. Raises ValueError if the first trials fail for the
        same reason, and under torchrun."""
        if rank_and_world()[1] > 1:
            raise ValueError(
                "each trial has a process: type the command without torchrun, with --jobs, or several times at once"
            )
        waits = False
        with unwinding_on_signals(), self._ending():
            while self.pending or self.running:
                self._start()
                if self.running:
                    time.sleep(POLL_SECONDS)
                    self._poll()
                elif self.pending:
                    if not waits:
                        number = counted(len(self.pending), "trial")
                        self.print_fn(f"waiting for {number} of other processes, such as {self.pending[0].name}")
                    waits = True
                    time.sleep(POLL_OTHERS_SECONDS)

    def is_finished(self, trial: Trial) -> bool:
        """Whether this process has nothing left to do for the trial."""
        outcome = self.folder.outcome(trial)
        if outcome is None or outcome.state == CUT:
            return False
        return outcome.state == DONE or outcome.failures > self.failures.get(trial.folder, 0)

    def _start(self) -> None:
        """Start trials while there is room; drop those that other processes have ended."""
        for trial in list(self.pending):
            if len(self.running) >= self.jobs:
                return
            if self.is_finished(trial):
                self.pending.remove(trial)
                continue
            if trial.needs is not None and not self._ready(trial):
                continue
            lock = self.folder.claim(trial)
            if lock is None:
                continue
            try:
                if self.is_finished(trial):  # in the meantime
                    self.pending.remove(trial)
                    lock.close()
                    continue
                self._begin(trial, lock)
            except BaseException:
                lock.close()
                raise
            self.pending.remove(trial)

    def _ready(self, trial: Trial) -> bool:
        """Whether the trial that this one needs is done. If that one failed, this one fails, too."""
        needed = next(other for other in self.trials if other.folder == trial.needs)
        outcome = self.folder.outcome(needed)
        if outcome is not None and outcome.state == FAILED and self.is_finished(needed):
            self._fail(trial, f"needs {needed.folder}, which failed")
            return False
        return outcome is not None and outcome.state == DONE

    def _begin(self, trial: Trial, lock: ExitStack) -> None:
        trial = self.complete(trial)
        path = self.folder.write(trial)
        outcome = self.folder.outcome(trial)
        words = trial.content["command"] if trial.is_command else [command_of(trial.content), str(path)]
        cut = outcome is not None and outcome.state == CUT
        if outcome is not None and cut:  # stopped during its evaluation
            words = [*words, f"train.steps={max(1, outcome.step or 0)}", *EVALUATE_NOW]
        gpu = least_busy(self.gpus, [r.gpu for r in self.running if r.gpu is not None])
        lines = read_lines(self.folder.out / trial.folder / METRICS)
        before = max((line.numbers.get("seconds", 0.0) for line in lines), default=0.0)
        self.running.append(_Running(trial, self._process(trial, words, gpu), lock, gpu, before, cut=cut))

    def _process(self, trial: Trial, words: Sequence[str], gpu: str | None) -> subprocess.Popen[bytes]:
        environment = {"OMP_NUM_THREADS": str(max(1, usable_cores() // self.jobs)), **os.environ}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        out = self.folder.out / trial.folder
        out.mkdir(parents=True, exist_ok=True)
        with open(out / LOG, "ab") as log, open(out / OUTPUT if trial.is_command else os.devnull, "wb") as output:
            # In a new session: otherwise a terminal's Ctrl-C would reach it besides our signal, and two kill it at
            # once. It stops when the pipe closes, that is, if this process is killed.
            return subprocess.Popen(
                [sys.executable, "-m", "fourm_engine.cli.child", *words],
                stdin=subprocess.PIPE,
                stdout=output if trial.is_command else log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _poll(self) -> None:
        for running in list(self.running):
            code = running.process.poll()
            if code is None:
                self._limit(running)
                continue
            self.running.remove(running)
            assert running.process.stdin is not None
            running.process.stdin.close()
            try:
                outcome = self.folder.outcome(running.trial)
                if code == STOPPED and running.cut and (outcome is None or outcome.state != CUT):
                    step = run_record.read(self.folder.out / running.trial.folder).get("step")
                    self.folder.record(running.trial, Outcome(CUT, step=step if isinstance(step, int) else None))
                    self.pending.insert(0, running.trial)
                elif code == 0:
                    self.succeeded = True
                    self.folder.record(running.trial, Outcome(DONE, step=None if outcome is None else outcome.step))
                    self._report(running.trial, self.describe(running.trial))
                else:
                    self._fail(running.trial, self._reason(running.trial, code))
            finally:
                running.lock.close()

    def _limit(self, running: _Running) -> None:
        """Stop a trial that has used up its training time. Time before the first step does not count."""
        if self.minutes is None or running.cut or running.trial.is_command:
            return
        if running.since is None:
            facts = run_record.read(self.folder.out / running.trial.folder)
            if facts.get("state") == run_record.RUNNING and facts.get("pid") == running.process.pid:
                running.since = time.monotonic()
        elif running.before + time.monotonic() - running.since >= 60 * self.minutes:
            running.cut = True
            running.process.terminate()

    def _fail(self, trial: Trial, reason: str) -> None:
        self.folder.record(trial, Outcome(FAILED, reason, failures=self.failures.get(trial.folder, 0) + 1))
        if trial in self.pending:
            self.pending.remove(trial)
        log = self.folder.out / trial.folder / LOG
        where = f"; see {log}" if log.is_file() else ""
        self._report(trial, f"failed: {reason}{where}")
        self.reasons.append(reason.replace(trial.name, "TRIAL"))
        alike = not self.succeeded and len(self.reasons) >= MAX_SAME_FAILURES and len(set(self.reasons)) == 1
        if alike and self.pending:
            raise ValueError(
                f"the first {MAX_SAME_FAILURES} trials failed for one reason, and "
                f"{counted(len(self.pending), 'trial')} were not tried: {reason}; fix it, and start again"
            )

    def _reason(self, trial: Trial, code: int) -> str:
        """The reason why a process failed, in one line."""
        with open(self.folder.out / trial.folder / LOG, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - MAX_LOG))
            text = log.read().decode(errors="replace").strip()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        if errors := _ERROR.findall(text):
            return str(errors[-1])
        return printable(text.rpartition("\n")[2], most=300) or f"exit code {code}"

    def _report(self, trial: Trial, text: str) -> None:
        ended = len(self.trials) - len(self.pending) - len(self.running)
        self.print_fn(f"[{ended}/{len(self.trials)}] {trial.name}: {text}")

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Stop running trials at the end of the block; they save their state."""
        try:
            yield
        finally:
            for running in self.running:
                running.process.terminate()
            for running in self.running:
                running.process.wait()
                running.lock.close()

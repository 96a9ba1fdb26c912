"""The report of `fourm train --dry-run`: the estimated figures of a run, and their presentation."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from fourm_engine.train.config import TrainConfig
from fourm_engine.train.console import gib, si, wrap
from fourm_engine.train.disk_space import checkpoints_kept
from fourm_engine.train.schedule import Plan
from fourm_engine.train.utilisation import Peak
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins.counting import counted, number


@dataclass(frozen=True)
class DryRun:
    """Figures for one step of the whole batch, unless stated otherwise."""

    vocabulary: Vocabulary
    parameters: dict[str, int]  # by part
    learning: int  # of these, without frozen ones
    data: list[str]  # lines about the data
    tokens: tuple[float, float]  # mean inputs and targets of a sample, without padding
    targets: dict[str, float]  # mean predicted tokens of the batch
    flops: dict[str, float]  # of a forward pass, by part
    step_flops: float
    memory: dict[str, float]  # bytes on each device, by part
    checkpoint: float  # bytes of one on disk
    plan: Plan
    train: TrainConfig
    processes: int
    samples: int  # for training, that are here
    sample_tokens: int  # in the batch's shape
    mfu: float
    peak: Peak
    refused: str = ""  # the error that the run would raise

    @property
    def step_seconds(self) -> float:
        return self.step_flops / (self.mfu * self.peak.flops_per_s * self.processes)

    def _run(self) -> list[str]:
        """Lines about the whole run."""
        plan, train, batch = self.plan, self.train, self.train.batch_size
        each = batch // (self.processes * train.accumulate)
        samples = plan.steps * batch
        rates = [f"warm-up {counted(plan.warmup, 'step')}"] * bool(plan.warmup)
        rates += [f"cool-down {counted(plan.cooldown, 'step')}"] * bool(plan.cooldown)
        lines = [f"samples of the run: {si(samples).strip()}"]
        if self.samples:
            lines.append(f"{samples / self.samples:,.{int(samples < 10 * self.samples)}f} times those found")
        lines.append(f"{si(samples * self.sample_tokens).strip()} tokens with padding")
        lines = wrap([*lines, *rates, f"peak rate {plan.lr:.3g}"])
        parts = counted(train.accumulate, "micro-batch", "micro-batches")
        lines += wrap([f"each device: {counted(batch // self.processes, 'sample')} per step", f"{parts} of {each}"])
        kept = 1 + checkpoints_kept(train, -(-plan.steps // train.checkpoint_every) - 1)  # 1: being written
        return lines + wrap(
            [
                f"checkpoints: {gib(self.checkpoint)} each",
                f"every {counted(train.checkpoint_every, 'step')}"
                f" ({in_words(train.checkpoint_every * self.step_seconds)})",
                f"at most {kept} on disk, {gib(kept * self.checkpoint)}",
                f"copied in {gib(self.checkpoint / self.processes)} of each process's host memory",
            ]
        )

    def lines(self) -> list[str]:
        """The report, in lines of at most 79 columns."""
        total = sum(self.parameters.values())
        rows = [f"{e.name} {e.size}" if e.size else f"{e.name} (continuous)" for e in self.vocabulary]
        shares = {name: count / total for name, count in self.parameters.items()}
        parts = [f"{name} {si(count).strip()} ({shares[name]:.0%})" for name, count in self.parameters.items()]
        lines = wrap([f"vocabulary: {counted(self.vocabulary.size, 'row')}", *rows])
        learning = [f"learning: {si(self.learning).strip()}"] if self.learning != total else []
        lines += wrap([f"parameters: {si(total).strip()}", *parts, *learning])
        lines += [line for data in self.data for line in wrap(data.split("  "))]
        inputs, targets = self.tokens
        lines += wrap(
            [
                f"a step: {counted(self.train.batch_size, 'sample')}",
                f"{si((inputs + targets) * self.train.batch_size).strip()} tokens",
                f"(per sample {inputs:.0f} inputs, {targets:.0f} targets)",
                f"{si(self.step_flops)}FLOP",
            ]
        )
        forward = sum(self.flops.values())
        lines += wrap(["  forward:", *(f"{name} {part / forward:.0%}" for name, part in self.flops.items() if part)])
        lines += wrap(["  targets:", *(f"{name} {count:,.0f}" for name, count in self.targets.items())])
        memory = [f"{name} {gib(part)}" for name, part in self.memory.items()]
        lines += wrap([f"memory per device: {gib(sum(self.memory.values()))} (estimate)", *memory])
        lines += self._run()
        lines += wrap([f"devices: {self.processes} x {self.peak}"])
        lasts = in_words(self.plan.steps * self.step_seconds)
        lines += wrap(
            [
                f"{counted(self.plan.steps, 'step')} at a utilisation (mfu) of {self.mfu:.0%}: {lasts}",
                f"{number(self.train.batch_size / self.step_seconds)} samples/s",
            ]
        )
        if self.refused:
            said = f"the run would end: {self.refused}"
            lines += textwrap.wrap(said, 79, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        return lines


def in_words(seconds: float) -> str:
    """90 -> "1.5 minutes"; 400,000 -> "4.6 days (111 hours)"."""
    hours = seconds / 3600
    if hours < 2:
        return f"{seconds / 60:.1f} minutes" if seconds >= 60 else counted(round(seconds), "second")
    if hours < 48:
        return f"{hours:.1f} hours"
    days = hours / 24
    return f"{days:.1f} days ({hours:,.0f} hours)" if days < 730 else f"{days / 365:,.0f} years ({hours:,.0f} hours)"

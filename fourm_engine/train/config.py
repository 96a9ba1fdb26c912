"""`TrainConfig`, the `train` section of a config, for every task."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.nn.config import Checkpointing
from fourm_engine.train.schedule import Plan

#: The batch size at which the learning rate is `base_lr`.
BASE_BATCH = 256
#: More than any machine has cores; OpenMP aborts the process if it cannot start that many threads.
MAX_THREADS = 4096
#: Steps of the longest trace; no viewer opens a larger one.
MAX_PROFILED = 100
#: Upper bounds that catch typos: 10**9 steps of 10 ms take four months, and above a rate of 1e4 any optimiser diverges
#: in its first step.
MAX_STEPS, MAX_BATCH, MAX_LR = 10**9, 10**7, 1e4
#: Settings that report more about a run without changing its result.
WATCHING = ("pairs_every", "pairs_samples", "pairs_inputs", "pictures_every", "pictures", "profile")
#: Settings of which exactly one is set.
LENGTHS, RATES = ("steps", "samples", "tokens"), ("lr", "base_lr")


class TrainConfig(BaseModel):
    """Settings of a training run. `plan` converts lengths to optimiser steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Samples per step, over all processes and micro-batches; a multiple of processes × `accumulate`.
    batch_size: int = Field(ge=1, le=MAX_BATCH)
    #: Micro-batches per step in each process (gradient accumulation): the same result in less memory.
    accumulate: int = Field(default=1, ge=1)
    #: The length of the run, exactly one of these: optimiser steps; samples drawn, repeats included; or input and
    #: target tokens of the batch's shape, as 4M counts them. Rounded up to whole steps.
    steps: int | None = Field(default=None, ge=1)
    samples: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)

    #: `adamw`; `muon` for the matrices of the blocks, with AdamW for the rest; or the name of an installed optimiser
    #: (entry points `fourm.optimisers.v1`).
    optimiser: str = "adamw"
    #: Additional arguments of the optimiser.
    optimiser_options: dict[str, Any] = Field(default_factory=dict)
    #: The peak learning rate, exactly one of these: `lr`, or `base_lr` for `base_lr` · batch_size / 256 (1e-4 in 4M).
    lr: float | None = Field(default=None, gt=0)
    base_lr: float | None = Field(default=None, gt=0)
    #: For fine-tuning: the learning rate of a layer, divided by that of the layer above it; null: one rate for all.
    layer_decay: float | None = Field(default=None, gt=0, lt=1)
    #: AdamW's betas and epsilon; the defaults of the betas are 4M's.
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    #: Weight decay of matrices; biases, norms, vectors and embeddings do not decay.
    weight_decay: float = Field(default=0.05, ge=0)
    #: Maximum L2 norm of all gradients together; null: no clipping.
    clip: float | None = Field(default=1.0, gt=0)

    #: The learning rate after the warm-up: `cosine` falls to `min_lr` at the end; `constant` stays; `wsd` (warm-up,
    #: stable, decay) stays, and falls linearly to `min_lr` in the last `cooldown` steps; `invsqrt` falls with 1 /
    #: sqrt(step), and linearly to `min_lr` in the last `cooldown` steps. Or the name of an installed schedule (entry
    #: points `fourm.schedules.v1`).
    schedule: str = "cosine"
    #: Steps, or tokens, over which the rate rises linearly from 0 to its peak.
    warmup: int = Field(default=0, ge=0)
    warmup_tokens: int | None = Field(default=None, ge=1)
    #: Steps, or tokens, of the final fall of `wsd` and `invsqrt`.
    cooldown: int = Field(default=0, ge=0)
    cooldown_tokens: int | None = Field(default=None, ge=1)
    #: The lowest rate after the warm-up.
    min_lr: float = Field(default=0.0, ge=0)

    #: `auto`: bf16 autocast on a GPU, fp32 on CPUs (many of which run bf16 50 times slower); or `bf16`, `fp32`. Weights
    #: stay in fp32.
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    #: The residual stream of a run in bf16: `fp32`, as autocast leaves it, or `bf16`: faster, with coarser sums.
    residual: Literal["fp32", "bf16"] = "fp32"
    #: `auto`: GPUs if there are any, else the CPU; or `cpu`, `cuda`.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: TF32 for fp32 matrix products on a GPU: faster, with 10 bits of mantissa.
    tf32: bool = False
    #: What each process holds: `replicate`, the whole model; `shard`, a shard of weights, gradients and optimiser state
    #: (FSDP2), for models too large for a GPU; `hybrid`, a shard of one of several copies, so that weights are gathered
    #: only within the `shard_over` processes of a copy.
    parallel: Literal["replicate", "shard", "hybrid"] = "replicate"
    #: Consecutive processes that share a copy of the model under `hybrid`; null: those of a machine.
    shard_over: int | None = Field(default=None, ge=1)
    #: What each block keeps for the backward pass, which recomputes the rest: `none`, everything; `selective`, the
    #: results of matrix products and attention; `full`, only the block's input.
    activation_checkpointing: Checkpointing = "none"
    #: Compile each block with torch.compile; the first step takes longer.
    compile: bool = False
    #: CPU threads per process; null: OMP_NUM_THREADS (1 under torchrun), else the fastest number in a short benchmark
    #: at the start.
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)

    #: Decay per step of an exponential moving average of all trained weights and codebooks, such as 0.999; null: none.
    #: The decay starts lower, so that initial weights never enter the average.
    ema: float | None = Field(default=None, gt=0, lt=1)
    #: What to evaluate and export: `weights`, `ema`, or `both`, with the averages in `model-ema/`; null: the averages
    #: if `ema` is set, else the weights.
    export: Literal["weights", "ema", "both"] | None = None

    #: Steps between checkpoints; one is always written at the end, and when the run is stopped.
    checkpoint_every: int = Field(default=1000, ge=1)
    #: Newest checkpoints to keep.
    keep: int = Field(default=2, ge=1)
    #: Also keep every checkpoint at a multiple of this many steps, itself a multiple of `checkpoint_every`.
    keep_every: int | None = Field(default=None, ge=1)
    #: Seconds without progress (a batch read, a forward pass, a checkpoint written) after which the run ends, naming
    #: the process that is behind; null: never.
    watchdog_s: float | None = Field(default=600.0, ge=1)
    #: Steps between evaluations on held-out data; null: only one, at the end.
    eval_every: int | None = Field(default=None, ge=1)
    #: Also keep the weights of the best evaluation, in `<run>/best/`; for `fourm finetune`.
    keep_best: bool = False
    #: Steps between lines of progress, on the console and in `metrics.jsonl`.
    log_every: int = Field(default=50, ge=1)

    # Reports, which do not change the result:

    #: Steps between any-to-any matrices of held-out losses; one more at the end. null: none.
    pairs_every: int | None = Field(default=None, ge=1)
    #: Held-out samples per row of the matrix.
    pairs_samples: int = Field(default=32, ge=1)
    #: Sets of inputs, one per row of the matrix; null: no input, and each modality alone.
    pairs_inputs: tuple[tuple[str, ...], ...] | None = None
    #: Steps between sheets of predictions; one more at the end. null: none.
    pictures_every: int | None = Field(default=None, ge=1)
    #: Held-out samples on a sheet, always the same.
    pictures: int = Field(default=2, ge=1, le=16)
    #: First and last step to trace with torch.profiler; null: no trace.
    profile: tuple[int, int] | None = None

    @property
    def exports(self) -> tuple[str, ...]:
        """The states to evaluate and export, in this order: "ema", "weights" or both."""
        if self.export == "both":
            return "ema", "weights"
        return (self.export or ("weights" if self.ema is None else "ema"),)

    def plan(self, sample_tokens: int | None = None) -> Plan:
        """Convert all lengths to steps. `sample_tokens`: input and target tokens per sample in the batch's shape; None
        if samples have no fixed number. Raises ValueError for lengths that contradict each other."""

        def steps(samples: int | None, tokens: int | None, names: str) -> int | None:
            size = self.batch_size
            if tokens is not None:
                if not sample_tokens:
                    raise ValueError(f"{names}: this task has no fixed number of tokens per sample; count steps")
                samples, size = tokens, size * sample_tokens
            return None if samples is None else -(-samples // size)

        length = self.steps or steps(self.samples, self.tokens, "tokens")
        assert length is not None  # see `_consistent`
        warmup = steps(None, self.warmup_tokens, "warmup_tokens") or self.warmup
        cooldown = steps(None, self.cooldown_tokens, "cooldown_tokens") or self.cooldown
        if length > MAX_STEPS:
            name = next(name for name in LENGTHS if getattr(self, name) is not None)
            raise ValueError(f"{name}: more than {MAX_STEPS:,} steps; lower it")
        if warmup + cooldown > length:
            raise ValueError(f"warmup={warmup} and cooldown={cooldown} exceed steps={length}; lower them")
        peak = self.lr if self.base_lr is None else self.base_lr * self.batch_size / BASE_BATCH
        assert peak is not None
        if peak > MAX_LR:
            raise ValueError(f"a peak learning rate of {peak:.3g} is above {MAX_LR:.0f}; lower lr, or base_lr")
        if self.optimiser in ("adamw", "muon") and peak * self.weight_decay >= 1:
            raise ValueError(
                f"weight_decay={self.weight_decay:.3g} at a peak learning rate of {peak:.3g} leaves no weight its "
                f"sign (their product is not below 1); lower one of them"
            )
        if self.profile is not None and self.profile[0] > length:
            raise ValueError(f"profile={list(self.profile)} begins after the last step, {length}; choose earlier ones")
        if self.min_lr > peak:
            raise ValueError(f"min_lr={self.min_lr} is above lr={peak}; lower it")
        return Plan(self.schedule, length, peak, self.min_lr, warmup, cooldown)

    @model_validator(mode="after")
    def _length_and_rate(self) -> TrainConfig:
        for names in (LENGTHS, RATES):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) != 1:
                what = f"{' and '.join(given)} are both set; keep one" if given else f"set {' or '.join(names)}"
                raise ValueError(what)
        for name in ("warmup", "cooldown"):
            if getattr(self, name) and getattr(self, f"{name}_tokens") is not None:
                raise ValueError(f"{name} and {name}_tokens are both set; keep one")
        cools = bool(self.cooldown or self.cooldown_tokens)
        if self.schedule in ("cosine", "constant", "wsd") and cools != (self.schedule == "wsd"):
            raise ValueError(
                f"cooldown={self.cooldown} and schedule={self.schedule!r}: a cooldown goes with 'wsd' or 'invsqrt'"
            )
        if self.schedule == "invsqrt" and not (self.warmup or self.warmup_tokens):
            raise ValueError("schedule='invsqrt' falls from the end of the warm-up on; set warmup or warmup_tokens")
        if self.tokens is None and self.warmup_tokens is None and self.cooldown_tokens is None:
            self.plan()
        return self

    @model_validator(mode="after")
    def _reports_and_exports(self) -> TrainConfig:
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1] < self.profile[0] + MAX_PROFILED:
            raise ValueError(
                f"profile={list(self.profile)}: expected the first and the last of at most {MAX_PROFILED} steps, "
                f"such as [11, 15]"
            )
        if self.pairs_inputs == ():
            raise ValueError("pairs_inputs=[] names no input; leave it out for each modality alone")
        if self.keep_every and self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"keep_every={self.keep_every} and checkpoint_every={self.checkpoint_every}: make the first a multiple "
                f"of the second, so that there are checkpoints to keep"
            )
        if self.shard_over is not None and self.parallel != "hybrid":
            raise ValueError(f"shard_over={self.shard_over} is for parallel='hybrid', which is {self.parallel!r}")
        if self.export in ("ema", "both") and self.ema is None:
            raise ValueError(f"export={self.export!r}, and the run keeps no averages; set ema, such as 0.999")
        return self

    @model_validator(mode="after")
    def _of_optimiser(self) -> TrainConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas}: both must be in [0, 1)")
        for name in ("betas", "eps"):
            with_adamw = self.optimiser in ("adamw", "muon")
            if with_adamw and name in self.optimiser_options:
                raise ValueError(f"optimiser_options: {name} is a setting beside it; set train.{name}")
            if not with_adamw and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for adamw, optimiser is {self.optimiser!r}; use optimiser_options")
        return self

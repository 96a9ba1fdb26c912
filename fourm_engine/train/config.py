"""`TrainConfig`, the `train` section of a config, for every task."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.nn.config import Checkpointing
from fourm_engine.train.schedule import Plan

#: The batch size at which the learning rate is `base_lr`.
BASE_BATCH = 256
#: More than any machine has cores; OpenMP ends the process when it cannot have so many.
MAX_THREADS = 4096
#: Steps of the longest trace; no viewer opens a larger one.
MAX_PROFILED = 100
#: The most steps, samples a step, and learning rate that can be meant: 10**9 steps of 10 ms take four months, and
#: beyond 1e4 any optimiser's first step ends the run.
MAX_STEPS, MAX_BATCH, MAX_LR = 10**9, 10**7, 1e4
#: Settings that show more of a run without changing it.
WATCHING = ("pairs_every", "pairs_samples", "pairs_inputs", "pictures_every", "pictures", "profile")
#: Settings of which exactly one is set.
LENGTHS, RATES = ("steps", "samples", "tokens"), ("lr", "base_lr")


class TrainConfig(BaseModel):
    """How a run learns. `plan` converts its lengths to optimiser steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Samples per step, over all processes and micro-batches; must be divisible by processes x `accumulate`.
    batch_size: int = Field(ge=1, le=MAX_BATCH)
    #: Micro-batches per step in each process: takes less memory, with the same result.
    accumulate: int = Field(default=1, ge=1)
    #: The length of the run, one of these three: optimiser steps; samples, where a sample counts each time that it is
    #: drawn; or tokens, input and target tokens of the batch's shape (samples x those of `masking`), as 4M counts them.
    #: A begun step is a whole one.
    steps: int | None = Field(default=None, ge=1)
    samples: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)

    #: "adamw"; "muon", for the matrices of the blocks, with AdamW for the rest; or the name of an optimiser of an
    #: installed package (entry points `fourm.optimisers.v1`).
    optimiser: str = "adamw"
    #: Further arguments of that optimiser.
    optimiser_options: dict[str, Any] = Field(default_factory=dict)
    #: The highest learning rate: `lr`, or by batch size as in 4M's appendix `base_lr` · batch_size / 256 (1e-4 there).
    lr: float | None = Field(default=None, gt=0)
    base_lr: float | None = Field(default=None, gt=0)
    #: Layer-wise decay, for fine-tuning: the rate of a layer over that of the layer above it; null: one rate for all.
    layer_decay: float | None = Field(default=None, gt=0, lt=1)
    # `betas` and `eps` are AdamW's. Biases, norms, vectors and embeddings do not decay. Betas and decay as in 4M.
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    #: Maximum L2 norm of all gradients together; null: no clipping.
    clip: float | None = Field(default=1.0, gt=0)

    # Learning rate: linear from 0 to the highest in the first `warmup` steps; then "cosine" falls to `min_lr` at the
    # end, "constant" stays, "wsd" (warm-up, stable, decay) stays and falls linearly to `min_lr` in the last `cooldown`
    # steps, and "invsqrt" falls with 1 / sqrt(step), in the last `cooldown` steps linearly to `min_lr`; packages add
    # others (entry points `fourm.schedules.v1`). Both lengths may be given in tokens in place of steps.
    schedule: str = "cosine"
    warmup: int = Field(default=0, ge=0)
    warmup_tokens: int | None = Field(default=None, ge=1)
    cooldown: int = Field(default=0, ge=0)
    cooldown_tokens: int | None = Field(default=None, ge=1)
    min_lr: float = Field(default=0.0, ge=0)

    #: "auto": bf16 autocast on a GPU, fp32 on CPUs (many of which run bf16 50 times slower). Weights stay in fp32.
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    #: The residual stream under bf16: "fp32", as autocast leaves it, or "bf16": fewer bytes, coarser sums.
    residual: Literal["fp32", "bf16"] = "fp32"
    #: "auto": GPUs if there are any, otherwise the CPU.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: TF32 for fp32 matrix products on a GPU: faster, with 10 bits of mantissa.
    tf32: bool = False
    #: Over several processes: "replicate" keeps the whole model in each; "shard" splits weights, gradients and the
    #: optimiser's state over all of them (FSDP2), for models that fill a GPU; "hybrid" over `shard_over` of them, so
    #: that the model is there several times, and what is gathered travels no further.
    parallel: Literal["replicate", "shard", "hybrid"] = "replicate"
    #: Processes, one after the other, that hold a copy of the model together under "hybrid"; null: those of a machine.
    shard_over: int | None = Field(default=None, ge=1)
    #: What the backward pass finds of each block: "none" keeps everything; "selective" the results of matrix products
    #: and of attention, "full" the block's inputs alone, and the rest is computed again.
    activation_checkpointing: Checkpointing = "none"
    #: Compile each block with torch.compile; the first step then takes longer.
    compile: bool = False
    #: CPU threads per process; null: OMP_NUM_THREADS (one under torchrun), or else the number measured to be fastest
    #: when the process starts.
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)

    #: Decay per step of the exponential moving average of all that learns, including codebooks; null: no average. It
    #: starts lower, so that the initial weights never enter it (`averages`).
    ema: float | None = Field(default=None, gt=0, lt=1)
    #: What to evaluate and export: "weights", "ema", or "both", with the averages in `model-ema/`; null: the averages
    #: if there are any.
    export: Literal["weights", "ema", "both"] | None = None

    #: Steps between checkpoints; one is always written at the end, and when the run is stopped.
    checkpoint_every: int = Field(default=1000, ge=1)
    #: Number of newest checkpoints to keep, in addition to those of every `keep_every` steps, a multiple of
    #: `checkpoint_every`.
    keep: int = Field(default=2, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    #: Seconds without progress (a batch read, a forward pass, a checkpoint written) after which the run ends, naming
    #: the process that is behind; null: never.
    watchdog_s: float | None = Field(default=600.0, ge=1)
    #: Steps between evaluations on held-out data, in addition to one at the end; null: only that one.
    eval_every: int | None = Field(default=None, ge=1)
    #: Also keep the weights of the best evaluation, in `<run>/best/`; for tasks that say which of two evaluations is
    #: better.
    keep_best: bool = False
    #: Steps between lines of progress (and of metrics.jsonl).
    log_every: int = Field(default=50, ge=1)

    # Reports, which do not change what is learned.
    #: Steps between matrices of held-out losses, of every input to every target, on `pairs_samples` samples a set of
    #: inputs; one more at the end. `pairs_inputs`: the sets of inputs; null: nothing, and each modality alone.
    pairs_every: int | None = Field(default=None, ge=1)
    pairs_samples: int = Field(default=32, ge=1)
    pairs_inputs: tuple[tuple[str, ...], ...] | None = None
    #: Steps between sheets of predictions on `pictures` fixed held-out samples; one more at the end. null: none.
    pictures_every: int | None = Field(default=None, ge=1)
    pictures: int = Field(default=2, ge=1, le=16)
    #: The first and the last step of a trace of torch.profiler; null: none.
    profile: tuple[int, int] | None = None

    @property
    def exports(self) -> tuple[str, ...]:
        """ "ema", "weights" or both: what is evaluated and exported, in that order."""
        if self.export == "both":
            return "ema", "weights"
        return (self.export or ("weights" if self.ema is None else "ema"),)

    def plan(self, sample_tokens: int | None = None) -> Plan:
        """Rates and lengths in steps. `sample_tokens`: input and target tokens per sample in the batch's shape; None if
        samples have no fixed number. Raises ValueError for lengths that do not fit together."""

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
    def _consistent(self) -> TrainConfig:
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
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas}: both must be in [0, 1)")
        for name in ("betas", "eps"):
            with_adamw = self.optimiser in ("adamw", "muon")
            if with_adamw and name in self.optimiser_options:
                raise ValueError(f"optimiser_options: {name} is a setting beside it; set train.{name}")
            if not with_adamw and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for adamw, optimiser is {self.optimiser!r}; use optimiser_options")
        return self

"""TrainConfig: the `train` section of a config; the same for every task."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """How a run learns. Lengths are in optimiser steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    #: Samples per step, over all processes and micro-batches; must be divisible by processes x `accumulate`.
    batch_size: int = Field(ge=1)
    #: Micro-batches per step in each process: less memory, the same result.
    accumulate: int = Field(default=1, ge=1)
    steps: int = Field(ge=1)

    #: "adamw", or the name that an installed package gives its own (entry points `fourm.optimisers.v1`).
    optimiser: str = "adamw"
    #: What else that optimiser is made with.
    optimiser_options: dict[str, Any] = Field(default_factory=dict)
    # `betas` and `eps` are AdamW's. Biases, norms, vectors and embeddings do not decay. Betas and decay as in 4M's
    # appendix, where the rate grows with the batch: 1e-4 · batch_size / 256.
    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    #: Largest L2 norm of all gradients together; null does not clip.
    clip: float | None = Field(default=1.0, gt=0)

    # Learning rate: linear from 0 to `lr` in the first `warmup` steps; then "cosine" falls to `min_lr` at the end,
    # "constant" stays, and "wsd" (warm-up, stable, decay) stays and falls linearly to `min_lr` in the last `cooldown`;
    # packages add others (entry points `fourm.schedules.v1`).
    schedule: str = "cosine"
    warmup: int = Field(default=0, ge=0)
    cooldown: int = Field(default=0, ge=0)
    min_lr: float = Field(default=0.0, ge=0)

    #: "auto": bf16 autocast on a GPU, fp32 on CPUs (many of which run bf16 50 times slower). Weights stay in fp32.
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    #: "auto": GPUs if there are any, otherwise the CPU.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: Over several processes: "replicate" keeps the whole model in each; "shard" splits weights, gradients and the
    #: optimiser's state over them (FSDP2), for models that fill a GPU.
    parallel: Literal["replicate", "shard"] = "replicate"
    #: CPU threads of each process; null leaves torch's choice (one under torchrun).
    threads: int | None = Field(default=None, ge=1)

    #: Decay per step of an exponential moving average of everything that learns, including codebooks, which is
    #: evaluated and exported; null: none. It starts lower, so that the initial weights never enter it (`averages`).
    ema: float | None = Field(default=None, gt=0, lt=1)

    #: Steps between checkpoints; one is always written at the end and when the run is stopped.
    checkpoint_every: int = Field(default=1000, ge=1)
    #: Number of newest checkpoints to keep.
    keep: int = Field(default=2, ge=1)
    #: Steps between evaluations on held-out data; one always runs at the end. null: only that one.
    eval_every: int | None = Field(default=None, ge=1)
    #: Steps between lines of progress (and of metrics.jsonl).
    log_every: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} is above lr={self.lr}; lower it")
        if self.warmup + self.cooldown > self.steps:
            raise ValueError(f"warmup={self.warmup} and cooldown={self.cooldown} exceed steps={self.steps}; lower them")
        if self.schedule in ("cosine", "constant", "wsd") and (self.cooldown > 0) != (self.schedule == "wsd"):
            raise ValueError(f"cooldown={self.cooldown} and schedule={self.schedule!r}: a cooldown goes with 'wsd'")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas}: both must be in [0, 1)")
        for name in ("betas", "eps"):
            if self.optimiser == "adamw" and name in self.optimiser_options:
                raise ValueError(f"optimiser_options: {name} is a setting beside it; set train.{name}")
            if self.optimiser != "adamw" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for adamw, optimiser is {self.optimiser!r}; use optimiser_options")
        return self

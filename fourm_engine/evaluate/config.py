"""The `evaluate` section of a config: which predictions to score on held-out samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.generate.options import Options

#: The visible part of a grid: a half, the central quarter, or a random share of its tokens.
Part = Literal["left", "right", "top", "bottom", "centre"] | Annotated[float, Field(gt=0, lt=1)]


class EvalTask(BaseModel):
    """One row of the report: the inputs and the targets."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Title in the report.
    name: str = Field(min_length=1)
    #: Input modalities.
    inputs: list[str] = Field(min_length=1)
    #: Target modalities, in order of generation. `"*"`: all that read other files than the inputs.
    targets: list[str] = Field(min_length=1)
    #: {input: part of it that is shown}: `left`, `right`, `top`, `bottom`, `centre`, or a random share, such as 0.5.
    #: Such an input may also be a target: its rest is predicted.
    keep: dict[str, Part] = Field(default_factory=dict)
    #: Whether later targets see earlier ones, or only the inputs.
    chain: bool = True
    #: {target: options}; other targets use the default plan.
    options: dict[str, Options] = Field(default_factory=dict)
    #: Use only so many of the `evaluate.samples`; null: all.
    samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> EvalTask:
        for what, names, known in (("keep", self.keep, self.inputs), ("options", self.options, self.targets)):
            if (unknown := sorted(set(names) - set(known))) and "*" not in known:
                raise ValueError(f"task {self.name!r}: {what} names {unknown[0]!r}, which is not among {known}")
        if len(set(self.targets)) < len(self.targets) or len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"task {self.name!r} names a modality twice")
        if both := sorted(set(self.targets) & set(self.inputs) - set(self.keep)):
            problem = f"{both[0]!r} is both an input in full and a target"
            raise ValueError(f"task {self.name!r}: {problem}; show a part (keep)")
        return self


class EvaluateConfig(BaseModel):
    """Without `tasks`, predicts everything from every single input (`chain: false`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: What to predict from what; empty: everything from each single input, with `chain: false`.
    tasks: list[EvalTask] = Field(default_factory=list)
    #: Held-out samples to predict, drawn by `seed`; all if there are fewer.
    samples: int = Field(default=200, ge=1)
    #: Held-out samples of the any-to-any matrix.
    matrix_samples: int = Field(default=100, ge=2)
    #: Training samples that the constant predictors are fitted to.
    constant_samples: int = Field(default=300, ge=1)
    #: Samples shown as pictures, per task.
    pictures: int = Field(default=4, ge=0)
    #: Samples drawn for each input, to measure their diversity; null: none.
    draws: int | None = Field(default=None, ge=2, le=64)
    #: Held-out samples with `draws`.
    draw_samples: int = Field(default=32, ge=2)
    #: Contrastive model (CLIP, SigLIP), a folder or Hub id, that measures the agreement of pictures and texts; null:
    #: none.
    agreement: str | None = None
    #: Samples per forward pass.
    batch_size: int = Field(default=32, ge=1)
    #: Seed of the choice of samples, and of what is drawn.
    seed: int = Field(default=0, ge=0, lt=1 << 63)

    @model_validator(mode="after")
    def _names(self) -> EvaluateConfig:
        names = [task.name for task in self.tasks]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two tasks are called {twice[0]!r}; give one another name")
        return self

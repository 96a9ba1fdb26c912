"""EvaluateConfig: the `evaluate` section of a config; which predictions are made on held-out samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.generate.plan import Options

#: Which part of a grid is shown: a half, the central quarter, or a random share of its tokens.
Part = Literal["left", "right", "top", "bottom", "centre"] | Annotated[float, Field(gt=0, lt=1)]


class EvalTask(BaseModel):
    """One row of the report: the inputs and the targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    #: Modalities that are shown.
    inputs: list[str] = Field(min_length=1)
    #: Modalities that are generated, in this order. "*" stands for all that read other sources than the inputs do.
    targets: list[str] = Field(min_length=1)
    #: Of these inputs only a part is shown, {name: part}. Such an input may be a target, too: the rest is predicted.
    keep: dict[str, Part] = Field(default_factory=dict)
    #: Whether what was generated is shown to the targets that follow; otherwise each sees the inputs alone.
    chain: bool = True
    #: How a target is generated, {name: options of `fourm_engine.generate.plan`}; the default plan for those left out.
    options: dict[str, Options] = Field(default_factory=dict)
    #: The first of the held-out samples alone; null: all of `evaluate.samples`.
    samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> EvalTask:
        for what, names, known in (("keep", self.keep, self.inputs), ("options", self.options, self.targets)):
            if (unknown := sorted(set(names) - set(known))) and "*" not in known:
                raise ValueError(f"task {self.name!r}: {what} names {unknown[0]!r}, which is not among {known}")
        if len(set(self.targets)) < len(self.targets) or len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"task {self.name!r} names a modality twice")
        if both := sorted(set(self.targets) & set(self.inputs) - set(self.keep)):
            raise ValueError(f"task {self.name!r}: {both[0]!r} is given in full and asked for; show a part (keep)")
        return self


class EvaluateConfig(BaseModel):
    """Without `tasks`, everything is predicted from every single input (`chain: false`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: list[EvalTask] = Field(default_factory=list)
    #: Held-out samples that are predicted, drawn by the seed; all where there are fewer.
    samples: int = Field(default=200, ge=1)
    #: Held-out samples of the any-to-any matrix.
    matrix_samples: int = Field(default=100, ge=2)
    #: Training samples to which the constant predictors are fitted.
    constant_samples: int = Field(default=300, ge=1)
    #: Samples shown as pictures, a task.
    pictures: int = Field(default=4, ge=0)
    #: Samples in one pass of the model.
    batch_size: int = Field(default=32, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _names(self) -> EvaluateConfig:
        names = [task.name for task in self.tasks]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two tasks are called {twice[0]!r}; give one another name")
        return self

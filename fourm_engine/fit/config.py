"""The `tokenizers` section of a config: the folder of fitted tokenizers, and how they are fitted.

A modality's recipe defines its tokenizer (kind, sizes, loss); this section defines the length and rate of training.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fourm_engine.storage.url import LocalFolder
from fourm_engine.train.config import LENGTHS, MAX_BATCH, MAX_LR, MAX_STEPS, RATES, WATCHING, TrainConfig


class AdaptConfig(BaseModel):
    """A second, short fit of a grid's tokenizer on batches of several sizes, after which it serves all of them and
    sizes between. Anything not set here is as in the first fit, which is at the modality's own size."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Length of the second fit.
    steps: int = Field(ge=1, le=MAX_STEPS)
    #: [height, width] in pixels, in addition to the modality's size; each batch has one of them, drawn from its step.
    sizes: tuple[tuple[int, int], ...] = Field(min_length=1)
    #: null: that of the first fit.
    batch_size: int | None = Field(default=None, ge=1, le=MAX_BATCH)
    #: Peak learning rate; null: a fifth of the first fit's.
    lr: float | None = Field(default=None, gt=0, le=MAX_LR)


class FitConfig(TrainConfig):
    """How tokenizers that are networks learn: by default 2000 steps at a rate of 1.5e-3. In a given time, many small
    steps learn more than few large ones."""

    #: Arrays per step.
    batch_size: int = Field(default=8, ge=1, le=MAX_BATCH)
    #: As in `train`.
    weight_decay: float = Field(default=0.01, ge=0)
    #: MiB in which each process caches the arrays of one modality; the rest is read again each time.
    cache_mb: int = Field(default=1024, ge=0)
    #: Adapt a grid's tokenizer to further sizes; null: it serves the modality's size only.
    adapt: AdaptConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        length = {} if any(given.get(name) is not None for name in LENGTHS) else {"steps": 2000}
        rate = {} if any(given.get(name) is not None for name in RATES) else {"lr": 1.5e-3}
        return given | length | rate

    @model_validator(mode="after")
    def _of_tokenizers(self) -> FitConfig:
        self.plan()  # rejects lengths in tokens, as arrays have no fixed number of tokens
        if self.layer_decay is not None:
            raise ValueError("layer_decay is for fine-tuning a model; a tokenizer has no such layers; remove it")
        if given := [name for name in WATCHING if getattr(self, name) != type(self).model_fields[name].default]:
            raise ValueError(f"{given[0]} is for models; the run of a tokenizer is removed at its end; leave it out")
        if self.export == "both":
            raise ValueError("export='both': a token space has one tokenizer; choose 'ema' or 'weights'")
        return self

    def adapting(self) -> FitConfig:
        """The settings of the second fit, with a lower rate that decays to zero."""
        assert self.adapt is not None
        plan = self.plan()
        changed: dict[str, Any] = dict.fromkeys((*LENGTHS, *RATES))
        changed |= {"steps": self.adapt.steps, "batch_size": self.adapt.batch_size or self.batch_size}
        changed |= {"warmup": min(plan.warmup, self.adapt.steps // 10), "schedule": "cosine", "cooldown": 0}
        lr = self.adapt.lr or plan.lr / 5
        changed |= {"lr": lr, "min_lr": min(self.min_lr, lr), "adapt": None}
        return FitConfig.model_validate(self.model_dump() | changed)


class FitOverride(BaseModel):
    """What differs for one token space; null: as in `fit`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    batch_size: int | None = Field(default=None, ge=1, le=MAX_BATCH)
    accumulate: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    samples: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0, le=MAX_LR)
    base_lr: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    warmup: int | None = Field(default=None, ge=0)
    adapt: AdaptConfig | None = None


class TokenizersConfig(BaseModel):
    """Fitted tokenizers live in `folder/<token space>/`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: Folder of the fitted tokenizers, one sub-folder per token space.
    folder: LocalFolder
    #: How tokenizers are fitted.
    fit: FitConfig = FitConfig()
    #: {token space: settings that differ from `fit`}: lengths, rates, `batch_size`, `accumulate`, `weight_decay`,
    #: `warmup`, `adapt`.
    spaces: dict[str, FitOverride] = Field(default_factory=dict)

    def fit_of(self, space: str) -> FitConfig:
        """The settings for one token space."""
        override = self.spaces.get(space, FitOverride())
        changed = override.model_dump(exclude_none=True)
        for names in (LENGTHS, RATES):  # one of them replaces any other of its kind
            changed = (dict.fromkeys(names) if changed.keys() & set(names) else {}) | changed
        return FitConfig.model_validate(self.fit.model_dump() | changed)

    def adapts(self, space: str) -> bool:
        """Whether the settings of this very token space request adaptation to several sizes."""
        return space in self.spaces and self.spaces[space].adapt is not None

    @model_validator(mode="after")
    def _consistent(self) -> TokenizersConfig:
        for space in self.spaces:
            try:
                self.fit_of(space)
            except ValidationError as error:
                raise ValueError(f"spaces.{space}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

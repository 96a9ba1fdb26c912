"""The `tokenizers` section of a config: where fitted tokenizers are, and how they are fitted.

What a tokenizer is (its kind, its sizes, its loss) is its modality's recipe; this is how long and how fast it learns.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fourm_engine.train.config import TrainConfig


class FitConfig(TrainConfig):
    """How tokenizers that are networks learn; `TrainConfig` with defaults for them. Many small steps learn more in a
    given time than few large ones."""

    batch_size: int = Field(default=8, ge=1)
    steps: int = Field(default=2000, ge=1)
    lr: float = Field(default=1.5e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    #: Memory for the arrays of one modality in each process, in MiB; what does not fit is read again each time.
    cache_mb: int = Field(default=1024, ge=0)


class FitOverride(BaseModel):
    """What one token space does differently; null: as in `fit`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int | None = Field(default=None, ge=1)
    accumulate: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    warmup: int | None = Field(default=None, ge=0)


class TokenizersConfig(BaseModel):
    """Fitted tokenizers live in `folder/<token space>/`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    fit: FitConfig = FitConfig()
    #: Token space -> what to do differently there.
    spaces: dict[str, FitOverride] = Field(default_factory=dict)

    def fit_of(self, space: str) -> FitConfig:
        """The settings for one token space."""
        override = self.spaces.get(space, FitOverride())
        return FitConfig.model_validate(self.fit.model_dump() | override.model_dump(exclude_none=True))

    @model_validator(mode="after")
    def _consistent(self) -> TokenizersConfig:
        for space in self.spaces:
            try:
                self.fit_of(space)
            except ValidationError as error:
                raise ValueError(f"spaces.{space}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

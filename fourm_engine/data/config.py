"""The `data` section of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.storage.config import RemoteConfig
from fourm_engine.storage.url import Place


class DataConfig(BaseModel):
    """Where the data is and how it is read. Raw data: `<folder>/<source>/…`, plain files or tar shards; tokens, made by
    `fourm tokenize`: `<tokens>/train/<modality>/shard-*.safetensors`. A folder may be a URL (s3://, gs://, https://,
    hf://)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Place | None = None
    val: Place | None = None
    tokens: Place | None = None
    remote: RemoteConfig = Field(default_factory=RemoteConfig)
    #: Name in the folder's `splits.json`, {name: [samples]}; None takes every sample.
    train_split: str | None = None
    val_split: str | None = None
    #: Crops of each training sample that `fourm tokenize` records; validation has the centre crop alone.
    views: int = Field(default=1, ge=1, le=1024)
    #: Random crops and flips; otherwise every view is the centre crop, and views differ in their alternatives
    #: (captions).
    augment: bool = False
    #: Area of a random crop, as a share of the largest crop of the right shape.
    crop_scale: tuple[float, float] = (0.5, 1.0)
    #: Probability that a random crop is mirrored.
    flip: float = Field(default=0.5, ge=0, le=1)
    #: A file that cannot be used: `skip` leaves its modality out of the sample, logs and counts it; `raise` ends the
    #: run.
    on_error: Literal["skip", "raise"] = "skip"
    #: Processes that prepare batches; the batches do not depend on it.
    workers: int = Field(default=0, ge=0)
    #: Memory a process spends on keeping continuous inputs (pictures at the model's size) that it has read, in MiB.
    cache_mb: int = Field(default=256, ge=0)
    #: Samples in one token shard.
    shard_size: int = Field(default=1000, ge=1)
    #: Largest file or tar member that is read, in MiB.
    max_file_mb: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {low}, {high}: two shares of the area with 0 < low <= high <= 1")
        return self

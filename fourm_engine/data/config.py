"""The `data` section of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fourm_engine.data.data_root import Pipe

#: A sub-folder, at the beginning of samples' names.
Folder = Annotated[str, StringConstraints(pattern=r"^[^/]+(/[^/]+)*$")]


class DataConfig(BaseModel):
    """Where the data is and how it is read. Raw data: `<folder>/<source>/…`, plain files or tar shards; tokens, made by
    `fourm tokenize`: `<tokens>/train/<modality>/shard-*.safetensors`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A folder; tars of one, by a pattern such as `data/shard-{00..09}.tar`; or `pipe:` and a command that prints one.
    train: Path | Pipe | None = None
    val: Path | Pipe | None = None
    tokens: Path | None = None
    #: Name in the folder's `splits.json`, {name: [samples]}; None takes every sample.
    train_split: str | None = None
    val_split: str | None = None
    #: Without lists: which samples of the folder `train` are held out of training, as `val`. A share, drawn by each
    #: sample's name alone, so that samples which are added later move no other; or the sub-folders that hold them, such
    #: as [val] for `<source>/val/…`.
    held_out: Annotated[float, Field(gt=0, lt=1)] | tuple[Folder, ...] | None = None
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

    @model_validator(mode="before")
    @classmethod
    def _one_folder(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("held_out") is not None and data.get("val") is None:
            data = data | {"val": data.get("train")}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.held_out is not None:
            if self.val != self.train:
                raise ValueError(
                    f"held_out is a part of train, but val is {self.val}; set val as train, or held_out: null"
                )
            if self.train_split is not None or self.val_split is not None:
                raise ValueError(
                    "held_out and the lists train_split, val_split both say what is held out; use one of them"
                )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {low}, {high}: two shares of the area with 0 < low <= high <= 1")
        return self

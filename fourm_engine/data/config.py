"""The `data` section of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    Tag,
    model_validator,
)

from fourm_engine.data.raw.root import PIPE
from fourm_engine.storage.config import RemoteConfig
from fourm_engine.storage.location import Location, open_location
from fourm_engine.storage.url import AnyFolder, Folder, Url, absolute, parse, scheme_of
from fourm_plugins.spec import SOURCE_PATTERN


def source_of(text: object) -> Folder | str:
    """Parse a location such as `data.train`. Commands and locations of packages stay strings: a path would lose double
    slashes."""
    return text if isinstance(text, str) and (text.startswith(PIPE) or scheme_of(text)) else parse(text)


#: A folder, a URL, a command that prints tars, or a location that a package opens.
Source = Annotated[Folder | str, PlainValidator(source_of), PlainSerializer(str, when_used="json")]


#: A sub-folder that is a prefix of sample names.
SubFolder = Annotated[str, StringConstraints(pattern=r"^[^/]+(/[^/]+)*$")]


def _held_out(value: object) -> object:
    share = isinstance(value, (int, float)) and 0 < value < 1
    if not (share or value is None or (isinstance(value, (list, tuple)) and value)):
        raise ValueError("a share between 0 and 1, such as 0.1, or a list of sub-folders, such as [val]")
    return value


def _same(a: Folder | str, b: Folder | str) -> bool:
    return absolute(a) == absolute(b) if isinstance(a, Path) and isinstance(b, Path) else a == b


class TrainingSet(BaseModel):
    """One of several data sets to train on together, an entry of the list `data.train`: raw data, its tokens, or
    both."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: The raw data, as for `data.train`.
    path: Source | None = None
    #: Its tokens, in a folder that no other data set uses.
    tokens: AnyFolder | None = None
    #: Like `data.train_split`, for this folder.
    split: str | None = None
    #: Share of the drawn samples, relative to the weights of the other entries. Give every entry a weight, or none:
    #: then an entry counts by its number of samples times `repeats`.
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: Number of times its samples are drawn while those of an entry without `repeats` are drawn once.
    repeats: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: Modalities to use from it; null: all that it has.
    modalities: list[str] | None = Field(default=None, min_length=1)
    #: {modality: sub-folder}, if a modality's files are not in the folder named by its setting `source`. Also applies
    #: to modalities that read the same files.
    sources: dict[str, Annotated[str, StringConstraints(pattern=SOURCE_PATTERN)]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _settings(cls, entry: Any) -> Any:
        if not isinstance(entry, (dict, cls)):
            raise ValueError(f"a data set of the list is written {{path: {entry}}}")
        return entry

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSet:
        if self.path is None and self.tokens is None:
            raise ValueError("a data set needs a path, the folder of its raw data, or tokens")
        if self.weight is not None and self.repeats is not None:
            raise ValueError("weight and repeats both say how often samples come; remove one")
        return self


def _kind(value: Any) -> str:
    return "(list)" if isinstance(value, list | tuple) else "(folder)"


class DataConfig(BaseModel):
    """The location of the data, and how to read it. Raw data is in `<folder>/<source>/…`, plain files or tar shards;
    tokens, made by `fourm tokenize`, are in `<tokens>/train/<modality>/shard-*.safetensors`. A folder may be a URL
    (s3://, gs://, https://, hf://)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Training data: a folder or URL; a pattern of tars, such as `data/shard-{00..09}.tar`; `pipe:` and a command that
    #: prints a tar; `NAME:LOCATION`, opened by the installed source NAME; or a list of data sets to mix.
    train: (
        Annotated[
            Annotated[Source, Tag("(folder)")] | Annotated[tuple[TrainingSet, ...], Tag("(list)")], Discriminator(_kind)
        ]
        | None
    ) = None
    #: Held-out data, like `train`, but not a list.
    val: Source | None = None
    #: Folder or URL of the tokens that `fourm tokenize` writes; null: tokenize on the fly, which is slow.
    tokens: AnyFolder | None = None
    #: How to copy data from URLs.
    remote: RemoteConfig = Field(default_factory=RemoteConfig)
    #: Name of a list in the data folder's `splits.json`, {name: [samples]}; null: all samples.
    train_split: str | None = None
    val_split: str | None = None
    #: Hold samples of `train` out, as `val`: a share, such as 0.1, drawn by each sample's name only, so that adding
    #: samples later does not move others; or sub-folders, such as [val] for `<source>/val/…`.
    held_out: Annotated[float | tuple[SubFolder, ...] | None, BeforeValidator(_held_out)] = None
    #: Share of the training samples to use (of each data set, if `train` is a list), drawn by each sample's name only:
    #: a larger share contains every smaller one.
    train_share: float = Field(default=1.0, gt=0, le=1)
    #: Number of views of each training sample that `fourm tokenize` stores; held-out samples have the centre crop only.
    views: int = Field(default=1, ge=1, le=1024)
    #: Random crops and flips. If false, every view is the centre crop, and views differ only in the choice among
    #: several captions.
    augment: bool = False
    #: Area of a random crop, as a share of the largest crop of the right shape.
    crop_scale: tuple[float, float] = (0.5, 1.0)
    #: Probability that a random crop is mirrored.
    flip: float = Field(default=0.5, ge=0, le=1)
    #: What to do about an unusable file: `skip` drops its modality from the sample, and logs and counts it; `raise`
    #: ends the run.
    on_error: Literal["skip", "raise"] = "skip"
    #: Number of lanes in which training samples are read, each a few shards at a time; processes share them evenly.
    #: With 1, an epoch is one permutation. null: 1 up to a million samples, else 64; for remote data, so many that a
    #: quarter of its shards is read at a time.
    lanes: int | None = Field(default=None, ge=1, le=1 << 16)
    #: Number of shards within which the samples of a lane are shuffled.
    window: int = Field(default=4, ge=1, le=1 << 16)
    #: Worker processes that prepare batches; batches do not depend on their number. null: up to 8 with a GPU, none on a
    #: CPU.
    workers: int | None = Field(default=None, ge=0, le=256)
    #: MiB per process for caching continuous inputs (pictures at the model's size).
    cache_mb: int = Field(default=256, ge=0)
    #: Number of samples per token shard.
    shard_size: int = Field(default=1000, ge=1)
    #: Maximum size of a file or tar member, in MiB.
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
                raise ValueError(f"held_out is part of train, but val is {self.val}; set val=train or held_out=null")
            if self.train_split is not None or self.val_split is not None:
                raise ValueError("held_out and train_split, val_split both say what is held out; use one of them")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {low}, {high}: two shares of the area with 0 < low <= high <= 1")
        if isinstance(self.train, tuple):
            self._check_sets()
        return self

    def at(self, folder: Folder) -> Path | Location:
        """A folder of this config, to read from."""
        return open_location(folder, self.remote) if isinstance(folder, Url) else folder

    @property
    def folder(self) -> Folder | str | None:
        """`train`, if it is not a list."""
        assert not isinstance(self.train, tuple)
        return self.train

    @property
    def sets(self) -> tuple[TrainingSet, ...]:
        """The data sets of the list `train`; empty if it is one folder, or not set."""
        return self.train if isinstance(self.train, tuple) else ()

    def of(self, entry: TrainingSet) -> DataConfig:
        """The config with `entry` as its only training data."""
        same = entry.path is not None and self.val is not None and _same(entry.path, self.val)
        update = {"train": entry.path, "tokens": entry.tokens, "train_split": entry.split}
        return self.model_copy(update=update if same else update | {"val": None, "val_split": None})

    def _check_sets(self) -> None:
        if not self.sets:
            raise ValueError("train is an empty list; name a folder, or data sets with a path each")
        if self.train_split is not None:
            raise ValueError("train_split goes with one folder; each data set of the list `train` has its own `split`")
        if self.tokens is not None and self.val is None:
            raise ValueError("tokens are those of `val` where `train` is a list; each of its data sets names its own")
        weighted = [one.weight is not None for one in self.sets]
        if any(weighted) and not all(weighted):
            raise ValueError(f"train.{weighted.index(False)} has no weight; every data set has one, or none has")
        folders = [absolute(one.tokens) for one in self.sets if one.tokens is not None]
        if len(set(folders)) < len(folders):
            raise ValueError("two data sets of the list `train` have one folder of tokens; give each its own")

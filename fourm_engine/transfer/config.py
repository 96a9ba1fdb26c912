"""The `task` section of a config: what a head on an encoder learns, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Task(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: An installed head (entry points `fourm.heads.v1`), and its options.
    head: str
    head_options: dict[str, Any] = Field(default_factory=dict)
    #: Stochastic depth: the share of the samples for which a branch of the last block of the encoder is left out; of
    #: the first block 0, rising linearly between.
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    #: Probability of dropping each input of a training sample; one always stays.
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    #: Brightness, contrast and saturation of pictures are drawn from 1 - this to 1 + this, and hues turned by a quarter
    #: of it.
    colour_jitter: float = Field(default=0.0, ge=0, le=1)


class ClassificationConfig(_Task):
    """One class per sample, or with `several` any number of classes."""

    kind: Literal["classification"] = "classification"
    head: str = "linear"
    #: Where the labels are: null, the first folder of a sample's name (`<class>/0001`); or a file for training and
    #: validation, or one each: CSV of rows `name,label`, JSON {name: label or [labels]}, or COCO's JSON of instances.
    labels: Path | None = None
    val_labels: Path | None = None
    several: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    #: Parameters of the Beta distributions from which the shares of two mixed samples are drawn: of all their numbers
    #: (mixup, arXiv 1710.09412), or of the area of a rectangle (cutmix, arXiv 1905.04899); 0: never. With both, each
    #: pair of samples draws one of the two.
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    #: Mean, of 0 to 10, and standard deviation of the strength with which two operations, drawn anew for each sample,
    #: alter a picture (RandAugment, arXiv 1909.13719).
    rand_augment: tuple[Annotated[float, Field(ge=0, le=10)], Annotated[float, Field(ge=0, le=10)]] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ClassificationConfig:
        if self.several and self.labels is None:
            raise ValueError("several: a sample lies in one folder; name a file of labels (task.labels)")
        if self.several and self.label_smoothing:
            raise ValueError("label_smoothing is for one class a sample; leave it out, or set several: false")
        if self.val_labels is not None and self.labels is None:
            raise ValueError("val_labels goes with labels; set both")
        return self


class SegmentationConfig(_Task):
    """A class per pixel."""

    kind: Literal["segmentation"] = "segmentation"
    head: str = "convnext"
    #: The modality of class maps to predict; the model need not know it.
    target: str
    #: Class ids to exclude from training, predictions and metrics, such as [0] for ADE20K, where 0 is "other".
    ignore: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)


class RegressionConfig(_Task):
    """Numbers per pixel, trained in the target's normalised form and evaluated in its units."""

    kind: Literal["regression"] = "regression"
    head: str = "convnext"
    #: The modality of maps to predict; the model need not know it.
    target: str
    loss: Literal["l1", "mse"] = "l1"


SCALES = {4.0, 2.0, 1.0, 0.5, 0.25}


class DetectionConfig(_Task):
    """Boxes and their classes."""

    kind: Literal["detection"] = "detection"
    head: str = "fcos"
    #: COCO's JSON of instances for training and validation, or one each.
    labels: Path
    val_labels: Path | None = None
    #: Sides of the grids on which objects are looked for, of the tokens' grid; the finest first, which finds the
    #: smallest objects.
    scales: tuple[float, ...] = Field(default=(2.0, 1.0, 0.5, 0.25), min_length=1)

    @model_validator(mode="after")
    def _falling(self) -> DetectionConfig:
        if list(self.scales) != sorted(set(self.scales) & SCALES, reverse=True):
            raise ValueError("scales: some of 4, 2, 1, 0.5, 0.25, the largest first")
        return self


TaskConfig = Annotated[
    ClassificationConfig | SegmentationConfig | RegressionConfig | DetectionConfig, Field(discriminator="kind")
]
KINDS = ("classification", "segmentation", "regression", "detection")

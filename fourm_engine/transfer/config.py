"""The `task` section of a config: what a head on an encoder learns, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator


class _Task(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: `linear`, `attentive`, `convnext`, `pyramid`, `unet`, `fcos`, or another installed head (entry points
    #: `fourm.heads.v1`).
    head: str
    #: Options of the head.
    head_options: dict[str, Any] = Field(default_factory=dict)
    #: Stochastic depth: the share of samples that skip the branches of the encoder's last block, falling linearly to 0
    #: in the first.
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    #: Probability of dropping each input of a training sample; one is always kept.
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    #: Vary brightness, contrast and saturation by up to this share, and hue by a quarter of it; needs `data.augment`.
    colour_jitter: float = Field(default=0.0, ge=0, le=1)


class Column(BaseModel):
    """A column of data that a package opens, such as Parquet files of Hugging Face `datasets`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: Annotated[str, Field(min_length=1)]

    def __str__(self) -> str:
        return f"column {self.column}"


class ObjectsColumn(Column):
    """A column of objects, as Hugging Face `datasets` have it: {bbox: [[x, y, w, h], …], category: [class, …]}, or a
    list of such objects. Fields `area` and `iscrowd` are read as those of COCO."""

    #: `xywh`: left, top, width and height, as in COCO; `xyxy`: left, top, right and bottom.
    boxes: Literal["xywh", "xyxy"]
    #: Whether boxes are in [0, 1] of the picture, not in pixels.
    relative: bool = False
    #: Names of the fields.
    bbox: Annotated[str, Field(min_length=1)] = "bbox"
    category: Annotated[str, Field(min_length=1)] = "category"


def _kind(value: Any) -> str:
    return "(column)" if isinstance(value, dict | Column) else "(file)"


LabelSource = Annotated[Annotated[Path, Tag("(file)")] | Annotated[Column, Tag("(column)")], Discriminator(_kind)]
ObjectSource = Annotated[
    Annotated[Path, Tag("(file)")] | Annotated[ObjectsColumn, Tag("(column)")], Discriminator(_kind)
]


class ClassificationConfig(_Task):
    """One class per sample, or with `several` any number of classes."""

    kind: Literal["classification"] = "classification"
    #: As in `task`.
    head: str = "linear"
    #: A file of labels: CSV rows `name,label`, JSON {name: label or [labels]}, or COCO's JSON of instances; or
    #: {column: NAME} of data that a package opens, such as Parquet files. null: the first folder of a sample's name
    #: (`<class>/0001`).
    labels: LabelSource | None = None
    #: Another file or column for the held-out samples; null: the same.
    val_labels: LabelSource | None = None
    #: Any number of classes per sample.
    several: bool = False
    #: Share of the probability that is spread over all classes.
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    #: Parameter of the Beta distribution of the share in which pairs of samples are mixed: of all their numbers (mixup,
    #: arXiv 1710.09412), or of the area of a rectangle (cutmix, arXiv 1905.04899); 0: never. With both, each pair draws
    #: one of the two.
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    #: [mean, standard deviation] of the strength, 0 to 10, of two operations on each picture (RandAugment, arXiv
    #: 1909.13719); needs `data.augment`. null: none.
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
    #: As in `task`.
    head: str = "convnext"
    #: The modality of class maps to predict; the model need not know it.
    target: str
    #: Class ids to exclude from training, predictions and metrics, such as [0] for ADE20K, where 0 is "other".
    ignore: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)


class RegressionConfig(_Task):
    """Numbers per pixel, trained in the target's normalised form and evaluated in its units."""

    kind: Literal["regression"] = "regression"
    #: As in `task`.
    head: str = "convnext"
    #: The modality of maps to predict; the model need not know it.
    target: str
    #: `l1` or `mse`, on normalised values.
    loss: Literal["l1", "mse"] = "l1"


SCALES = {4.0, 2.0, 1.0, 0.5, 0.25}


class DetectionConfig(_Task):
    """Boxes and their classes."""

    kind: Literal["detection"] = "detection"
    #: As in `task`.
    head: str = "fcos"
    #: COCO's JSON of instances; or {column: NAME, boxes: xywh} of data that a package opens, such as Parquet files.
    labels: ObjectSource
    #: Another file or column for the held-out samples; null: the same.
    val_labels: ObjectSource | None = None
    #: Sides of the grids on which objects are detected, over that of the token grid; the finest first, for the smallest
    #: objects.
    scales: tuple[float, ...] = Field(default=(2.0, 1.0, 0.5, 0.25), min_length=1)

    @model_validator(mode="after")
    def _falling(self) -> DetectionConfig:
        if list(self.scales) != sorted(set(self.scales) & SCALES, reverse=True):
            raise ValueError("scales: some of 4, 2, 1, 0.5, 0.25, the largest first")
        return self


Side = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]


class RetrievalConfig(_Task):
    """An embedding of each side of a sample, nearest to those of its other sides (CLIP, arXiv 2103.00020)."""

    kind: Literal["retrieval"] = "retrieval"
    #: As in `task`; each side has a head of its own.
    head: str = "linear"
    #: The sides that find each other: two or more inputs, or lists of inputs.
    between: tuple[Side, ...]
    #: Numbers per embedding.
    width: int = Field(default=256, ge=1, le=1 << 16)
    #: Cosines are divided by this before the softmax; where learning starts.
    temperature: float = Field(default=0.07, ge=0.01, le=1)

    @model_validator(mode="after")
    def _sides(self) -> RetrievalConfig:
        if len(self.between) < 2 or not all(self.between):
            raise ValueError("between: name the inputs of two sides or more, such as [rgb@pixels, caption]")
        names = [name for side in self.between for name in side]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"between: {double!r} stands there twice, and would find itself; keep one")
        return self


TaskConfig = Annotated[
    ClassificationConfig | SegmentationConfig | RegressionConfig | DetectionConfig | RetrievalConfig,
    Field(discriminator="kind"),
]
KINDS = ("classification", "segmentation", "regression", "detection", "retrieval")

"""Labelled bounding boxes.

Files: JSON, `[{"label": "person", "bbox": [x0, y0, x1, y1]}, ...]` in [0, 1] of the picture, x to the right, y down; []
where there is nothing. Value: list of `Box`. Array: their text, `v0=x v1=y v2=x v3=y label ...` in coordinate bins.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from fourm_boxes.box import Box, Boxed, Order, ordered, parse_boxes, write_boxes
from fourm_boxes.drawing import draw_boxes
from fourm_boxes.labeller import DetectionLabeller, DetectionOptions, RegionLabeller, RegionOptions
from fourm_boxes.metrics import average_precision, dropped, mean_average_precision
from fourm_plugins import Labeller, Metric, Modality, SampleError, View, images
from fourm_plugins.bases import SequenceModality, SequenceSettings
from fourm_plugins.counting import counted
from fourm_plugins.labelling import label_options
from fourm_plugins.recognition import Recognised, next_power, usable

__all__ = ["Box", "Boxed", "Boxes", "average_precision", "mean_average_precision", "parse_boxes", "write_boxes"]

_MAX_BYTES = 8_000_000
_ROUNDING = 1e-3  # how far outside the picture a stored coordinate may lie


class BoxesSettings(SequenceSettings):
    #: Labels that may occur; empty: any. Reading a label that is not among them is an error.
    labels: tuple[str, ...] = ()
    #: The order in which boxes are written. "random" draws one for each view of a sample.
    order: Order = "distance"
    #: Largest number of boxes written: by "score" the most certain, by "random" the first drawn, else the largest.
    max_boxes: int = Field(default=40, ge=1)
    #: Boxes with a lower score are left out; those without a score, such as hand-drawn ones, count as 1.
    min_score: float = Field(default=0.0, ge=0, le=1)
    #: Share of a box that must lie in a crop for the box to be kept.
    min_visible: float = Field(default=0.25, gt=0, le=1)
    source: str = "boxes"


class Boxes(SequenceModality[list[Box]]):
    Settings = BoxesSettings
    claims = frozenset({"exact_files"})
    one_answer = True

    folders = ("box", "bbox", "detection", "det", "object")
    extensions = ("json",)
    accepts = 'boxes, [{"label": "cat", "bbox": [x0, y0, x1, y1]}, ...] in [0, 1], typed ones v0=x v1=y v2=x v3=y cat'
    published_name = "det"
    licence = "Apache-2.0"
    description = "labelled bounding boxes"

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """JSON lists of labelled boxes in [0, 1], at least one of them not empty."""
        probe = cls("probe")
        values = usable([files for files in samples if "json" in files], probe.read)
        labels = {box.label for boxes in values for box in boxes}
        if not labels:
            return None
        most = max(map(len, values))
        kept = min(most, 20)
        tokens = next_power(kept * (4 + max(len(label.split()) for label in labels)) + 1, least=32)
        settings = {
            "max_boxes": (
                kept,
                f"boxes kept of a sample, the largest; one has {most}" if kept < most else "the most seen",
            ),
            "max_tokens": (tokens, "four coordinates and a label a box"),
        }
        words = {word.lower() for label in labels for word in label.split()}
        return Recognised(0.95, f"boxes of {len(labels)} labels, up to {most} a sample", settings, words=len(words))

    def read(self, files: Mapping[str, bytes]) -> list[Box]:
        entries = images.only_json(files, self.extensions, "boxes", most=_MAX_BYTES)
        if not isinstance(entries, list):
            raise SampleError(f"boxes are a JSON list of objects, not {type(entries).__name__}")
        return [self._box(index, entry) for index, entry in enumerate(entries)]

    def from_text(self, text: str) -> list[Box]:
        """JSON as in a file, or boxes as the model reads and writes them, `v0=x v1=y v2=x v3=y label ...`."""
        if text.lstrip()[:1] in ("[", "{"):
            return super().from_text(text)
        boxes, lost = parse_boxes(text, bins=self.settings.text.coordinate_bins, labels=self.settings.labels)
        if lost or not boxes:
            last = self.settings.text.coordinate_bins - 1
            allowed = f", one of {counted(len(self.settings.labels), 'label')}" if self.settings.labels else ""
            raise SampleError(
                f"{text[:60]!r} is not all boxes; type `v0=x0 v1=y0 v2=x1 v3=y1 label ...` in whole numbers of 0 to "
                f"{last} with x0 < x1 and y0 < y1{allowed}, or JSON"
            )
        return boxes

    def from_array(self, array: np.ndarray) -> list[Box]:
        raise self.refusal(array, "corners alone have no labels")

    def from_object(self, given: Any) -> list[Box]:
        """A `Box`, a dict as in a file, (label, x0, y0, x1, y1) or (label, corners), each with or without a score; or a
        list."""
        if isinstance(given, (dict, Box)) or (isinstance(given, tuple) and given and isinstance(given[0], str)):
            given = [given]
        if not isinstance(given, (list, tuple)):
            raise self.refusal(given)
        return [self._box(index, _entry(entry)) for index, entry in enumerate(given)]

    def _box(self, index: int, entry: object) -> Box:
        if not (isinstance(entry, dict) and isinstance(entry.get("label"), str) and entry["label"].strip()):
            raise SampleError(f"box {index} has no label")
        label, corners = " ".join(entry["label"].split()), entry.get("bbox")
        if "=" in label:
            raise SampleError(f"box {index} is labelled {label!r}; '=' is kept for coordinates")
        if self.settings.labels and label not in self.settings.labels:
            raise SampleError(
                f"box {index} is labelled {label!r}, which is none of the {counted(len(self.settings.labels), 'label')}"
            )
        if not (isinstance(corners, list) and len(corners) == 4 and all(_is_number(x) for x in corners)):
            raise SampleError(f"box {index} ({label}) needs bbox: four numbers x0, y0, x1, y1")
        if min(corners) < -_ROUNDING or max(corners) > 1 + _ROUNDING:
            raise SampleError(f"box {index} ({label}) lies outside the picture: {corners}; coordinates are in [0, 1]")
        x0, y0, x1, y1 = (min(max(float(x), 0.0), 1.0) for x in corners)
        if x0 >= x1 or y0 >= y1:
            raise SampleError(f"box {index} ({label}) has no extent: {corners}; the order is x0, y0, x1, y1")
        score = entry.get("score")
        if score is not None and not _is_number(score):
            raise SampleError(f"box {index} ({label}) has the score {score!r}, not a number")
        return Box(label, x0, y0, x1, y1, score=None if score is None else float(score))

    def write(self, value: list[Box]) -> dict[str, bytes]:
        entries: list[dict[str, object]] = []
        for box in value:
            entries.append({"label": box.label, "bbox": [box.x0, box.y0, box.x1, box.y1]})
            if box.score is not None:
                entries[-1]["score"] = box.score
        return {"json": json.dumps(entries).encode()}

    def augment(self, value: list[Box], view: View) -> list[Box]:
        """Boxes in the view's coordinates, clipped to it, without those below `min_visible` or `min_score`."""
        seen = []
        for box in value:
            if box.certainty < self.settings.min_score:
                continue
            x0, y0, x1, y1 = view.box(box.x0, box.y0, box.x1, box.y1)
            whole = (x1 - x0) * (y1 - y0)
            x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)
            if x0 < x1 and y0 < y1 and (x1 - x0) * (y1 - y0) >= self.settings.min_visible * whole * (1 - 1e-9):
                seen.append(Box(box.label, x0, y0, x1, y1, score=box.score))
        if self.settings.order == "random":
            # Any random choice is the view's: the same boxes through the same view come in the same order.
            rng = np.random.default_rng(zlib.crc32(repr((view, value)).encode()))
            return [seen[i] for i in rng.permutation(len(seen))]
        return seen

    def normalise(self, value: list[Box]) -> str:
        order = self.settings.order
        kept = ordered(value, "area" if order == "distance" else order)[: self.settings.max_boxes]
        return write_boxes(kept, bins=self.settings.text.coordinate_bins, order=order)

    def denormalise(self, array: np.ndarray | str) -> Boxed:
        """The boxes that can be parsed, and `dropped`, the number of pieces that cannot."""
        assert isinstance(array, str)
        return self.denormalise_scored(array, ())

    def denormalise_scored(self, array: str, tokens: Sequence[tuple[str, float]]) -> Boxed:
        """As `denormalise`; the score of a box is the geometric mean of its tokens' probabilities."""
        nats: list[list[float]] = []
        for text, probability in tokens:
            if text.startswith("v0=") or not nats:
                nats.append([])
            nats[-1].append(-math.log(max(probability, 1e-12)))
        scores = [round(math.exp(-sum(of_box) / len(of_box)), 4) for of_box in nats]
        bins, labels = self.settings.text.coordinate_bins, self.settings.labels
        boxes, lost = parse_boxes(array, bins=bins, labels=labels, scores=scores)
        return Boxed(boxes, dropped=lost)

    def remark(self, value: list[Box]) -> str:
        lost = value.dropped if isinstance(value, Boxed) else 0
        pieces = counted(lost, "piece of the generated text was", "pieces of the generated text were")
        return f"{pieces} no box, dropped" if lost else ""

    def render(self, value: list[Box]) -> Image.Image:
        return draw_boxes(value)

    def parts(self, value: list[Box]) -> dict[str, float]:
        """Of box 0, 1, …: "0.x" and "0.y", where its middle lies, "0.width" and "0.height", all in [0, 1]."""
        parts = {}
        for i, box in enumerate(value):
            parts |= {f"{i}.x": (box.x0 + box.x1) / 2, f"{i}.y": (box.y0 + box.y1) / 2}
            parts |= {f"{i}.width": box.x1 - box.x0, f"{i}.height": box.y1 - box.y0}
        return parts

    def with_part(self, value: list[Box], part: str, number: float) -> list[Box]:
        """A box moved, or resized about its middle, and cut to the picture."""
        if part not in self.parts(value):
            raise SampleError(f"no {part!r} in it; it has {', '.join(self.parts(value)) or 'no box'}")
        index, _, which = part.partition(".")
        now = {key: self.parts(value)[f"{index}.{key}"] for key in ("x", "y", "width", "height")} | {which: number}
        left, right = now["x"] - now["width"] / 2, now["x"] + now["width"] / 2
        top, bottom = now["y"] - now["height"] / 2, now["y"] + now["height"] / 2
        corners = [min(max(float(x), 0.0), 1.0) for x in (left, top, right, bottom)]
        if corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise SampleError(f"{part}: at {number:g} nothing of the box is left in the picture")
        box = value[int(index)]
        return [*value[: int(index)], Box(box.label, *corners, score=box.score), *value[int(index) + 1 :]]

    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("AP50, class ignored", average_precision, True),
            Metric("AP50", mean_average_precision, True),
            Metric("dropped", dropped, False, "a sample"),
        )

    def label_sources(self, model: str | None) -> tuple[str, ...]:
        return ("rgb",) if model else ("semseg",)

    def labeller(self, source: Modality, model: str | None, **options: Any) -> Labeller:
        """With the Hub name or folder of an object detection model, boxes of pictures (`DetectionOptions`); without,
        boxes around the regions of class maps (`RegionOptions`)."""
        if model is not None:
            given = label_options(DetectionOptions, options, target=self.name)
            return DetectionLabeller(model, given, labels=self.settings.labels)
        classes = tuple(getattr(source.settings, "classes", ()))
        if not classes:
            raise ValueError(
                f"{self.name} needs a model, a folder or a Hub id such as facebook/detr-resnet-50; or class maps whose "
                f"classes have names, which {source.name} has not (classes: [...])"
            )
        return RegionLabeller(label_options(RegionOptions, options, target=self.name), classes=classes)

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        labels = self.settings.labels or ("disc", "square", "triangle")
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            names = np.random.default_rng([seed, index, 6]).choice(labels, 4)
            height, width = regions.shape
            boxes = []
            for region in np.unique(regions[regions > 0]):
                rows, columns = np.nonzero(regions == region)
                x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                boxes.append(Box(str(names[region]), x0 / width, y0 / height, x1 / width, y1 / height))
            samples.append(self.write(sorted(boxes, key=lambda box: -box.area)))
        return samples


def _entry(given: Any) -> object:
    """A box in the form of a file; anything else is returned unchanged."""
    if isinstance(given, Box) or all(hasattr(given, name) for name in ("label", "x0", "y0", "x1", "y1")):
        corners = [getattr(given, name) for name in ("x0", "y0", "x1", "y1")]
        entry = {"label": given.label, "bbox": corners, "score": getattr(given, "score", None)}
    elif isinstance(given, (tuple, list)) and given and isinstance(given[0], str):
        label, *rest = given
        corners, score = (rest[0], rest[1:]) if rest and not _is_number(_plain(rest[0])) else (rest[:4], rest[4:])
        entry = {"label": label, "bbox": corners, "score": score[0] if score else None}
    elif isinstance(given, dict):
        entry = dict(given)
    else:
        return given
    corners = _plain(entry.get("bbox"))
    entry["bbox"] = [_plain(x) for x in corners] if isinstance(corners, (list, tuple)) else corners
    entry["score"] = _plain(entry.get("score"))
    return entry


def _plain(x: Any) -> Any:
    """NumPy's and torch's numbers as Python's."""
    return x.tolist() if hasattr(x, "tolist") else x


def _is_number(x: object) -> bool:
    # Integers beyond float's range make isfinite raise; no coordinate is so large.
    return isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < 1e9 and math.isfinite(x)

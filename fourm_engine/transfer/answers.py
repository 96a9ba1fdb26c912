"""Predictions of a task's model for one sample: classes with probabilities, a value of the target modality, objects
with boxes, or an embedding."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.drawing import SIDE, font, show
from fourm_plugins import calls, images
from fourm_plugins.modality import Modality
from fourm_plugins.view import View

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Classes:
    """`probabilities`: class -> probability, most likely first. They sum to 1, or with `several` classes are
    independent."""

    probabilities: dict[str, float]
    several: bool = False

    def likeliest(self, k: int = 5) -> list[tuple[str, float]]:
        return list(self.probabilities.items())[:k]


@dataclass(frozen=True, repr=False)
class DenseMap:
    """`value`: a value of `modality` at the training size, such as class ids (H, W) or metres."""

    modality: Modality[Any]
    value: Any

    def render(self) -> Any:
        """The value as a `PIL.Image`."""
        return calls.render(self.modality, self.value)

    def show(self, *, side: int = SIDE) -> Any:
        """`render` with its legend, a scale or a key of classes, at `side` pixels."""
        return show(self.modality, self.value, side=side)

    def __repr__(self) -> str:
        return f"<DenseMap {self.modality.name!r}: {self.value.dtype} {self.value.shape}>"


@dataclass(frozen=True, eq=False)
class Detections:
    """n objects by descending score: `labels`, `boxes` (n, 4) as x0, y0, x1, y1 in [0, 1] of the picture (x to the
    right, y down), and `scores` (n,) in [0, 1]."""

    labels: tuple[str, ...]
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def threshold(self, score: float) -> Detections:
        """The detections with a higher score."""
        n = int((self.scores > score).sum())
        return Detections(self.labels[:n], self.boxes[:n], self.scores[:n])

    def uncrop(self, view: View) -> Detections:
        """The detections with boxes mapped from a view (without a flip) to the whole picture."""
        corner, size = np.array([view.left, view.top] * 2), np.array([view.width, view.height] * 2)
        return Detections(self.labels, (corner + size * self.boxes).clip(0, 1), self.scores)

    def to_json(self) -> list[dict[str, Any]]:
        """The detections in the format of box files."""
        parts = zip(self.labels, self.boxes.astype(float).round(5).tolist(), self.scores.astype(float).tolist())
        return [{"label": label, "bbox": box, "score": round(score, 5)} for label, box, score in parts]

    def draw_on(self, picture: Image) -> Image:
        """A copy of the picture with the boxes, their labels and scores."""
        from PIL import ImageDraw

        drawn = picture.convert("RGB")
        draw, colours, small = ImageDraw.Draw(drawn), images.palette(64), font(max(10, min(drawn.size) // 32))
        for label, box, score in reversed(list(zip(self.labels, self.boxes, self.scores))):
            colour = tuple(int(c) for c in colours[zlib.crc32(label.encode(errors="surrogatepass")) % 64])
            x0, y0, x1, y1 = (float(a) * (b - 1) for a, b in zip(box, drawn.size * 2))
            draw.rectangle([x0, y0, max(x0, x1), max(y0, y1)], outline=colour, width=2)
            text = f"{label} {score:.2f}"
            left, top, right, bottom = draw.textbbox((x0 + 2, y0 + 1), text, font=small)
            draw.rectangle([left - 2, top - 1, right + 2, bottom + 1], fill=colour)
            dark = 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] < 128
            draw.text((x0 + 2, y0 + 1), text, fill="white" if dark else "black", font=small)
        return drawn


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """`vector`: float32 (width,), of length 1."""

    vector: np.ndarray

    def similarity(self, other: Embedding) -> float:
        """The cosine, in [-1, 1]."""
        return float(self.vector @ other.vector)

    def __repr__(self) -> str:
        return f"<Embedding: {len(self.vector)} numbers>"


Answer = Classes | DenseMap | Detections | Embedding

"""Animations of a generation: the values decoded after each step, as a GIF or PNG.

In: a model and a request for `FourM.generate`. Out: frames, each a row of the inputs and the targets so far.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourm_engine.drawing import Cell, sheet
from fourm_engine.evaluate.pictures import hide
from fourm_engine.files import write_atomically
from fourm_engine.generate.result import Results
from fourm_engine.generate.vary import seen
from fourm_engine.model import FourM
from fourm_plugins import calls
from fourm_plugins.spec import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

#: Maximum number of frames per target; longer sequences (one frame per token) are subsampled evenly.
MAX_FRAMES = 64
FORMATS = {".gif": "GIF", ".png": "PNG", ".apng": "PNG"}
#: Milliseconds to show a step, and the result.
STEP_MS, RESULT_MS = 250, 2500


def check_animation(path: Path) -> None:
    """Raises ValueError unless the name has an extension of an animation."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: an animation is a .gif, or a .png (APNG); change the extension")


def animate(
    path: str | Path, call: Callable[..., Results], inputs: Mapping[str, Any], *args: Any, **options: Any
) -> Results:
    """Write the steps of a generation as a looping animation to `path`, a .gif or .png (APNG), and return its results.

    Args:
        call: `generate` or `edit` of a model.
        inputs: its first argument; the picture of each is shown beside the steps.
        args, options: its other arguments. Of several samples, the first is animated.

    Raises ValueError, one line, for another extension, and for a generation of one step."""
    check_animation(path := Path(path))
    if not isinstance(model := getattr(call, "__self__", None), FourM):
        raise ValueError(f"animate: give model.generate or model.edit of a FourM, not {call!r:.80}")
    with Steps(model).record() as steps:
        results = call(inputs, *args, **options)
    write_atomically(path, animated(steps.frames(inputs, results.samples[0]), path))
    return results


@dataclass
class Steps:
    """The known tokens of one sample after each step: target -> [(ids, known)]."""

    model: FourM
    events: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    @contextmanager
    def record(self) -> Iterator[Steps]:
        """Records what the model generates inside the block, for its first sample."""
        with self.model.sampler.step_callback(self._add):
            yield self

    def _add(self, target: str, ids: np.ndarray, known: np.ndarray) -> None:
        self.events.setdefault(target, []).append((ids[0], known[0]))

    def frames(self, inputs: Mapping[str, Any], results: Results, *, cell: int = 192) -> list[Image]:
        """One frame per step and one of `results`, all of one size. Raises ValueError if there was only one step."""
        if all(len(events) < 2 for events in self.events.values()):
            raise ValueError("an animation needs more than one step; raise steps (--steps 8)")
        given = []
        for name, value in inputs.items():
            modality, looked_at = seen(self.model, name, value)
            given.append(Cell(calls.render(modality, looked_at), name))
        done, rows = dict[str, Cell](), list[list[Cell | None]]()
        for target, events in self.events.items():
            chosen = sorted({round(k) for k in np.linspace(0, len(events) - 1, min(len(events), MAX_FRAMES))})
            for number in chosen:
                what = f"{target}: {'token' if self._sequence(target) else 'step'} {number + 1} of {len(events)}"
                done[target] = Cell(self._so_far(target, *events[number]), what)
                rows.append([*given, *(done.get(name) for name in self.events)])
            done[target] = Cell(done[target].content, target)
        final = {name: Cell(generated.render(), name) for name, generated in results.items()}
        rows.append([*given, *({**done, **final}.get(name) for name in self.events)])
        return _equally_large([sheet([("", row)], cell=cell) for row in rows])

    def _sequence(self, target: str) -> bool:
        return self.model.modalities[target].spec.layout.kind == "sequence"

    def _so_far(self, target: str, ids: np.ndarray, known: np.ndarray) -> Any:
        """The value decoded from the known tokens. Unknown tokens of a grid are grey, and decoded as the nearest known
        one."""
        modality, layout = self.model.modalities[target], self.model.modalities[target].spec.layout
        if self._sequence(target):
            ids = ids[known]
        elif not known.any():
            ids = np.zeros_like(ids)
        else:
            columns = layout.width if isinstance(layout, Grid) else len(ids)
            ids = ids[_nearest(known, columns)]
        decoded = calls.decode(self.model.tokenizers[target], [ids])[0]
        rendered = calls.render(modality, calls.denormalise(modality, decoded))
        if isinstance(rendered, str) or not isinstance(layout, Grid):
            return rendered
        return hide(rendered, known.reshape(layout.height, layout.width))


def _nearest(known: np.ndarray, columns: int) -> np.ndarray:
    """Index of the nearest known token of each token, in a grid of `columns`."""
    at = np.arange(len(known))
    indices = np.flatnonzero(known)
    rows, across = at // columns, at % columns
    distance = (rows[:, None] - rows[indices]) ** 2 + (across[:, None] - across[indices]) ** 2
    return indices[distance.argmin(1)]


def _equally_large(frames: Sequence[Image]) -> list[Image]:
    from PIL import Image as pil

    size = max(f.width for f in frames), max(f.height for f in frames)
    whole = []
    for frame in frames:
        whole.append(pil.new("RGB", size, "white"))
        whole[-1].paste(frame, (0, 0))
    return whole


def animated(frames: Sequence[Image], path: Path) -> bytes:
    """The bytes of a looping animation, in the format of the path's extension."""
    check_animation(path)
    times = [STEP_MS] * (len(frames) - 1) + [RESULT_MS]
    kind = FORMATS[path.suffix.lower()]
    buffer = io.BytesIO()
    if kind == "GIF":
        from PIL import Image as pil

        # one palette for all frames avoids flicker
        palette = _strip(frames).quantize(256)
        frames = [frame.quantize(palette=palette, dither=pil.Dither.NONE) for frame in frames]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()


def _strip(frames: Sequence[Image]) -> Image:
    """The last frame above the middle one, from which the palette is chosen."""
    from PIL import Image as pil

    width, height = frames[-1].size
    strip = pil.new("RGB", (width, 2 * height))
    strip.paste(frames[-1], (0, 0))
    strip.paste(frames[len(frames) // 2], (0, height))
    return strip

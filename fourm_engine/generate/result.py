"""Results of generation: the value, tokens and picture of each target of a sample."""

from __future__ import annotations

import html
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from fourm_engine.drawing import SIDE, Cell, explained, html_picture, sheet, show
from fourm_plugins import calls, images
from fourm_plugins.legend import Scale, round_numbers
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import did_you_mean


@dataclass(frozen=True, repr=False)
class Generated:
    """One generated modality of one sample.

    `value` has the modality's type (metres, a picture, a string, a list of boxes). `tokens` are the chosen ids, int64
    (n,), local to the modality's token space; a sequence comes without its end marker.

    `decoded_from` is the source of the value. "tokens": the tokenizer decodes `tokens` to this value. "probabilities":
    the probability-weighted code of the model's distribution at each position; `tokens` are the ids chosen alongside,
    which decode to a similar, but not the same value. "mean", "median", "vote": reduced from several samples
    (`reduce`); `tokens` are those of the sample nearest to the value, and `spread` is the disagreement of the samples
    per element (`Modality.spread`).

    `given`, for an edit of a picture (`Condition(value, keep=mask)`): bool (H, W), True where the value was given
    rather than decoded; None otherwise."""

    modality: Modality
    tokens: np.ndarray
    value: Any
    decoded_from: Literal["tokens", "probabilities", "mean", "median", "vote"] = "tokens"
    given: np.ndarray | None = None
    spread: Any = None

    def render(self) -> Any:
        """The value in a form for viewing: a `PIL.Image`, or a string."""
        return calls.render(self.modality, self.value)

    def show(self, *, side: int = SIDE) -> Any:
        """`render` with a legend, a scale or a key of classes, at `side` pixels; or a string."""
        return show(self.modality, self.value, side=side)

    def show_spread(self, *, side: int = SIDE) -> Any:
        """The spread of the samples: a picture with its scale, from dark (they agree) to light (they differ most), or a
        line of text if the spread is not a map. Raises ValueError if there is no spread."""
        if self.spread is None:
            raise ValueError(f"{self.modality.name!r} has no spread; generate it with n_samples and reduce")
        if not isinstance(self.spread, np.ndarray) or self.spread.ndim != 2:
            return f"spread {reprlib.repr(self.spread)}"
        known = self.spread[np.isfinite(self.spread)]
        most = float(known.max(initial=0.0)) or 1.0
        legend = calls.legend(self.modality, self.value)
        marks = [(x / most, f"{x:.3g}") for x in round_numbers(0.0, most)]
        unit = legend.unit if isinstance(legend, Scale) else "share" if self.decoded_from == "vote" else ""
        picture = Image.fromarray(images.colour_map(self.spread / most))
        return explained(picture, Scale(images.colour_map(np.linspace(0, 1, 256)), tuple(marks), unit), side=side)

    def remark(self) -> str:
        """The modality's remark about the value, such as parts that were dropped because they did not parse; '' if
        there is none."""
        return calls.remark(self.modality, self.value)

    def __repr__(self) -> str:
        value = self.value
        what = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else reprlib.repr(value)
        source = f"{len(self.tokens):,} tokens; decoded from {self.decoded_from}"
        return f"<Generated {self.modality.name!r}: {what}, {source}>"

    def _repr_html_(self) -> str:
        """The display in a notebook: the picture or text, with the remark below."""
        rendered, remark = self.show(), self.remark()
        if isinstance(rendered, str):
            shown = f"<pre style='white-space: pre-wrap'>{html.escape(rendered)}</pre>"
        else:
            shown = html_picture(rendered)
        below = f"<figcaption>{html.escape(remark)}</figcaption>" if remark else ""
        return f"<figure>{shown}{below}</figure>"


class Results(dict[str, Generated]):
    """The results of one input, target -> `Generated`; a dict that displays itself in a notebook.

    With `n_samples`, `samples` are the results of each sample, and the dict holds the first of them, their reduction
    (`reduce`), or the one with the highest of `scores` (`best`). With `explain`, `explanation` describes what would
    run."""

    def __init__(
        self,
        results: Mapping[str, Generated] | None = None,
        /,
        *,
        samples: Sequence[Results] = (),
        scores: Sequence[float] = (),
        explanation: Any = None,
    ) -> None:
        super().__init__(results or {})
        self._samples = list(samples)
        self.scores = list(scores)
        self.explanation = explanation

    @property
    def samples(self) -> list[Results]:
        return self._samples or [self]

    def __missing__(self, name: str) -> Generated:
        raise KeyError(f"{name!r} was not generated; {did_you_mean(name, self, otherwise='these were:')}")

    def __repr__(self) -> str:
        of = f" of {len(self.samples):,} samples" if len(self.samples) > 1 else ""
        between = ", " if len(self) < 3 else ",\n  "
        return f"<Results{of}: {between.join(map(repr, self.values())) or 'none'}>"

    def grid(self, *, cell: int = 192) -> Image.Image:
        """A contact sheet: the targets side by side, or, for several samples, a row per target with the result, its
        spread, and each sample. `cell`: pixels of a picture's longer side."""
        if len(self.samples) == 1:
            return sheet([("", [Cell(result.show(), name) for name, result in self.items()])], cell=cell)
        rows = []
        for name, result in self.items():
            values = [result.value, *(s[name].value for s in self.samples)]
            whole, *samples = calls.render_all(result.modality, values)
            whole, cells = explained(whole, calls.legend(result.modality, result.value)), list[Cell]()
            if result.spread is not None:
                cells = [Cell(whole, result.decoded_from), Cell(result.show_spread(), "spread")]
            elif self.scores:
                cells = [Cell(whole, "best")]
            rows.append((name, cells + [Cell(picture, f"sample {i}") for i, picture in enumerate(samples)]))
        return sheet(rows, cell=cell)

    def _repr_html_(self) -> str:
        """The display in a notebook: the targets side by side; of several samples the sheet of `grid`."""
        if len(self.samples) > 1:
            return html_picture(self.grid())
        cells = (f"<div><b>{html.escape(name)}</b>{result._repr_html_()}</div>" for name, result in self.items())
        return f"<div style='display: flex; flex-wrap: wrap; gap: 1em'>{''.join(cells)}</div>"

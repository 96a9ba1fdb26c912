"""What generation gives back for one target of one sample."""

from __future__ import annotations

import base64
import html
import reprlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fourm_engine.drawing import SIDE, png, show
from fourm_plugins.modality import Modality


@dataclass(frozen=True, repr=False)
class Generated:
    """`value` is the modality's own (metres, a picture, a string, a list of boxes). `tokens` are the ids that were
    chosen, int64 (n,), local to the modality's token space, a sequence without its end marker.

    `decoded_from` tells what the value comes from. "tokens": from `tokens`, so that the tokenizer decodes them to this
    value. "probabilities": from the model's distribution over the ids at each position, as their probability-weighted
    code; `tokens` are then the ids chosen beside it, which decode to a similar value, but not to this one.

    `given`: of an edit of a picture (`Condition(value, keep=mask)`), bool (H, W), True where the value is what was
    given and nothing was decoded; None for anything else."""

    modality: Modality
    tokens: np.ndarray
    value: Any
    decoded_from: Literal["tokens", "probabilities"] = "tokens"
    given: np.ndarray | None = None

    def render(self) -> Any:
        """What to show a person: a `PIL.Image`, or a string."""
        return self.modality.render(self.value)

    def show(self, *, side: int = SIDE) -> Any:
        """`render` with what explains its colours, a scale or a key of classes, at `side` pixels; or a string."""
        return show(self.modality, self.value, side=side)

    def remark(self) -> str:
        """What the modality says of its value, such as what did not parse and was dropped; '' for nothing."""
        return self.modality.remark(self.value)

    def __repr__(self) -> str:
        value = self.value
        what = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else reprlib.repr(value)
        source = f"{len(self.tokens)} tokens; decoded from {self.decoded_from}"
        return f"<Generated {self.modality.name!r}: {what}, {source}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, or the text, and the remark below it."""
        rendered, remark = self.show(), self.remark()
        if isinstance(rendered, str):
            shown = f"<pre style='white-space: pre-wrap'>{html.escape(rendered)}</pre>"
        else:
            shown = _picture(rendered)
        below = f"<figcaption>{html.escape(remark)}</figcaption>" if remark else ""
        return f"<figure>{shown}{below}</figure>"


class Results(dict[str, Generated]):
    """What was generated of one sample, target -> `Generated`; a dict that shows itself in a notebook."""

    def __repr__(self) -> str:
        return f"<Results: {', '.join(map(repr, self.values())) or 'none'}>"

    def _repr_html_(self) -> str:
        cells = (f"<div><b>{html.escape(name)}</b>{one._repr_html_()}</div>" for name, one in self.items())
        return f"<div style='display: flex; flex-wrap: wrap; gap: 1em'>{''.join(cells)}</div>"


def _picture(picture: Any) -> str:
    return f"<img src='data:image/png;base64,{base64.b64encode(png(picture)).decode()}'>"

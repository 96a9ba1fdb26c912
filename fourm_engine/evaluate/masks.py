"""Visualises the mask of one sample: input and target tokens drawn over a picture, or described in text.

In: a `PackedSample` and its vocabulary. Out: the state of each token, a picture with a grid, a text with the sentinels
of its spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fourm_engine.batch import PackedSample
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import calls
from fourm_plugins.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

DROPPED, SHOWN, TARGET = range(3)
#: Smallest longer side of a picture with a grid, in pixels.
SIDE = 256
_GREY, _ORANGE = (128, 128, 128), (240, 120, 20)


def states(packed: PackedSample, vocabulary: Vocabulary, name: str, tokens: int) -> np.ndarray:
    """int64 (tokens,) for a grid or vector: DROPPED, SHOWN or TARGET."""
    state, index = np.full(tokens, DROPPED), vocabulary[name].index
    state[packed.encoder[1, packed.encoder[2] == index]] = SHOWN
    state[packed.decoder[1, packed.decoder[2] == index]] = TARGET
    return state


def counts(packed: PackedSample, vocabulary: Vocabulary, name: str) -> tuple[int, int]:
    """(input tokens, target tokens) of a modality."""
    index = vocabulary[name].index
    return int((packed.encoder[2] == index).sum()), int((packed.decoder[2] == index).sum())


def overlay(image: Image, grid: np.ndarray) -> Image:
    """`image` under a grid: input tokens are clear, targets orange, all others grey. grid: (rows, columns) of
    states."""
    from PIL import Image as pil
    from PIL import ImageDraw

    rows, columns = grid.shape
    scale = max(1, round(SIDE / max(image.size)))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), pil.Resampling.NEAREST)
    for state, colour, strength in ((DROPPED, _GREY, 0.88), (TARGET, _ORANGE, 0.6)):
        mask = np.where(grid == state, round(255 * strength), 0).astype(np.uint8)
        picture.paste(colour, mask=pil.fromarray(mask).resize(picture.size, pil.Resampling.NEAREST))
    pen = ImageDraw.Draw(picture)
    for k in range(rows + 1):
        y = min(round(k * picture.height / rows), picture.height - 1)
        pen.line((0, y, picture.width, y), fill=(255, 255, 255))
    for k in range(columns + 1):
        x = min(round(k * picture.width / columns), picture.width - 1)
        pen.line((x, 0, x, picture.height), fill=(255, 255, 255))
    return picture


def in_words(states_of: np.ndarray) -> str:
    """Positions of a vector: "inputs 0, 2; targets 1"."""
    parts = [
        f"{what} {', '.join(map(str, np.flatnonzero(states_of == state)))}"
        for what, state in (("inputs", SHOWN), ("targets", TARGET), ("dropped", DROPPED))
        if (states_of == state).any()
    ]
    return "; ".join(parts)


def spans(packed: PackedSample, vocabulary: Vocabulary, name: str, tokenizer: TextTokenizer) -> tuple[str, str]:
    """(input, target) of a sequence as text. ⟨2⟩ is the tokenizer's second sentinel: in the input, it replaces the
    words that follow it in the target. ⟨end⟩ marks the end of a sequence that was not truncated."""
    entry = vocabulary[name]
    shown = packed.encoder[0, packed.encoder[2] == entry.index] - entry.start
    rows = packed.decoder[2] == entry.index
    # The decoder predicts the next token from each: its first input, then all its predictions.
    first = packed.decoder[0, rows][:1] - entry.start
    return text(shown, tokenizer), text(np.concatenate([first, packed.labels[rows]]), tokenizer)


def text(ids: np.ndarray, tokenizer: TextTokenizer) -> str:
    """Ids as text, special ones in angle brackets."""
    special = {sentinel: f"⟨{k}⟩" for k, sentinel in enumerate(tokenizer.sentinel_ids)} | {tokenizer.end_id: "⟨end⟩"}
    parts, run = list[str](), list[int]()

    def close() -> None:
        if run:
            parts.append(str(calls.decode(tokenizer, [np.array(run, np.int64)])[0]))
            run.clear()

    for token in map(int, ids):
        if token in special:
            close()
            parts.append(special[token])
        else:
            run.append(token)
    close()
    return " ".join(part for part in parts if part)

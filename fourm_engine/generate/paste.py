"""Pastes what an edit generated into its original, at the original's size.

In: the inputs of an edit (`edit_request`), and its results at the model's size. Out: results in which every pixel that
the edit does not mark is bitwise the original's, and the others are the generated ones, enlarged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fourm_engine.data.views import view_of
from fourm_engine.generate.input_types import Condition, Ids
from fourm_engine.generate.inputs import InputReader, read_value
from fourm_engine.generate.masks import tokens_within
from fourm_engine.generate.result import Generated, Results
from fourm_plugins import calls, images
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ClassMap, Grid
from fourm_plugins.view import View


@dataclass(frozen=True, eq=False)
class Original:
    """A picture or map as the user gave it.

    `value`: (H, W, …). `known`: bool (H, W), True where it stays. `seen`: the rows and columns that the model sees."""

    value: np.ndarray
    known: np.ndarray
    seen: tuple[slice, slice]

    @classmethod
    def of(cls, name: str, value: Any, keep: np.ndarray, modality: Modality, view: View) -> Original:
        """`keep`: bool, of pixels or of tokens; see `Condition`. Raises ValueError for a value without rows and columns
        of pixels, a mask of another size, and an edit of pixels that the model does not see."""
        if not (isinstance(value, np.ndarray) and value.ndim >= 2):
            raise ValueError(f"{name!r} has no pixels to paste into; keep it, or leave paste out")
        left, top, right, bottom = map(round, view.pixels(*value.shape[:2]))
        seen = slice(top, bottom), slice(left, right)
        if keep.shape == value.shape[:2]:
            known = keep
        else:
            layout = modality.spec.layout
            tokens = tokens_within(name, keep, value, modality.spec, view, what="the mask")
            assert isinstance(layout, Grid)
            tokens = tokens.reshape(layout.height, layout.width)
            known = np.ones(value.shape[:2], np.bool_)
            known[seen] = images.view_map(tokens, View(), known[seen].shape)
        unseen = ~known
        unseen[seen] = False
        if unseen.any():
            raise ValueError(
                f"{name!r}: paste needs a mask within what the model sees, rows {top} to {bottom}, columns {left} to "
                f"{right}; mark less, or crop the picture"
            )
        return cls(value, known, seen)

    def paste(self, generated: Generated) -> Generated:
        """The value, and its spread, at the original's size."""
        modality, given = generated.modality, self.value[self.seen]
        array, size = np.asarray(modality.normalise(generated.value)), given.shape[:2]
        if isinstance(modality.spec.array, ClassMap):
            large = images.view_map(array, View(), size)
        else:
            large = _enlarged(array.transpose(1, 2, 0), size).transpose(2, 0, 1)
        made, kept = calls.denormalise(modality, large), self.known[self.seen]

        def wrong(value: Any) -> str:
            return "" if np.shape(value) == given.shape else f"gives shape {np.shape(value)}, not {given.shape}"

        # Relative values take the scale of the given ones. `calls.compose` would check for the model's size.
        value = calls.call(modality, "compose", lambda: modality.compose(given, made, kept), wrong)
        value = self._with(value, self.value)
        spread = generated.spread
        if isinstance(spread, np.ndarray) and spread.ndim == 2:
            spread = self._with(_enlarged(spread[..., None], size)[..., 0], np.zeros(self.known.shape, spread.dtype))
        return replace(generated, value=value, given=self.known, spread=spread)

    def _with(self, generated: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """`whole`, with the `generated` part that the model sees where it is unknown."""
        result = whole.astype(np.result_type(whole, generated))
        result[self.seen][~self.known[self.seen]] = generated[~self.known[self.seen]]
        return result


def originals(inputs: Mapping[str, Any], edited: Collection[str], reader: InputReader) -> dict[str, Original]:
    """The originals of the `edited` inputs. Raises ValueError unless each is a `Condition` of a value that takes a
    paste."""
    if not all(isinstance(inputs.get(name), Condition) for name in edited):
        raise ValueError("paste has no effect without a mask or outpaint; leave it out")
    return {name: _original(name, inputs[name], reader) for name in edited}


def _original(name: str, given: Condition, reader: InputReader) -> Original:
    if isinstance(given.value, Ids):
        raise ValueError(f"{name!r}: paste takes values, not token ids; give the picture")
    modality = reader.instance(name, raw=False)
    value = read_value(name, modality, given.value)
    aspect, group = modality.aspect(value), modality.spec.alignment
    views = reader.drawer.draw("", 0, {} if aspect is None or group is None else {group: aspect})
    assert given.keep is not None
    return Original.of(name, value, given.keep, modality, view_of(modality.spec, views, 0))


def paste(results: Results, into: Mapping[str, Original]) -> Results:
    """The results of an edit, each pasted into its original; an explanation as it is."""
    if not results:
        return results
    one = {name: into[name].paste(generated) for name, generated in results.items()}
    samples = results.samples if len(results.samples) > 1 else []
    several = [Results({name: into[name].paste(made) for name, made in sample.items()}) for sample in samples]
    return Results(one, samples=several, scores=results.scores)


def _enlarged(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 (*size, C), bilinear; NaN stays NaN and is not mixed with its neighbours."""
    finite = np.isfinite(array).all(-1, keepdims=True)
    large = images.view_features(np.where(finite, array, 0).astype(np.float32), View(), size)
    if finite.all():
        return large
    share = images.view_features(finite.astype(np.float32), View(), size)
    return np.where(images.view_map(finite, View(), size), large / np.maximum(share, 1e-6), np.nan).astype(np.float32)

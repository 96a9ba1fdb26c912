"""Rendering: pictures and their legends, and parts that can be varied."""

from __future__ import annotations

import numpy as np

from fourm_plugins.errors import SampleError
from fourm_plugins.legend import Key, Scale
from fourm_plugins.testing.check import Check, require
from fourm_plugins.testing.compare import distance, spread
from fourm_plugins.testing.subject import Subject
from fourm_plugins.view import View

#: Of 256 levels of a colour, since a scale has fewer colours than a picture may have.
_CLOSE_COLOURS = 4


def values_are_shown(subject: Subject) -> None:
    """`render` gives a PIL picture in RGB mode, or a string, and `remark` a string, for every value."""
    assert subject.seen


def legends_explain_the_picture(subject: Subject) -> None:
    """The colours of `legend` are those that `render` draws, and `render_all` draws a single value as `render` does."""
    modality, values = subject.modality, subject.seen
    together = modality.render_all(values)
    require(len(together) == len(values), f"render_all gives {len(together)} pictures of {len(values)} values")
    for value in values:
        (alone,), shown = modality.render_all([value]), modality.render(value)
        if isinstance(shown, str):
            require(alone == shown, "render_all of one value is not what render gives")
            require(modality.legend(value) is None, "legend explains colours, but render gives text")
            continue
        require(np.array_equal(np.asarray(alone), np.asarray(shown)), "render_all of one value is not as render has it")
        legend, colours = modality.legend(value), np.unique(np.asarray(shown).reshape(-1, 3), axis=0)
        if isinstance(legend, Key):
            absent = [name for colour, name in legend.entries if not (colours == colour).all(1).any()]
            require(not absent, f"the key names {absent[0] if absent else ''}, whose colour is not in the picture")
        elif isinstance(legend, Scale):
            off = [label for share, label in legend.marks if not 0 <= share <= 1]
            require(not off, f"the mark {off[0] if off else ''} does not lie on the scale: shares are in [0, 1]")
            bar = np.asarray(legend.colours, np.int64)
            require(bar.ndim == 2 and bar.shape[1] == 3, f"the scale's colours are {bar.shape}; (n, 3) is needed")
            drawn = colours[(colours > 0).any(1)].astype(np.int64)  # black marks missing measurements
            far = [c for c in drawn if np.abs(bar - c).max(1).min() > _CLOSE_COLOURS]
            require(not far, f"the picture has the colour {tuple(far[0]) if far else ''}, which the scale has not")
        else:
            require(legend is None, f"legend gives {type(legend).__name__}; a Scale, a Key or None is needed")


def parts_can_be_varied(subject: Subject) -> None:
    """With the number that it has, each of `parts` leaves the value as it is; names of no part raise SampleError."""
    modality = subject.modality
    for value in (subject.modality.augment(value, View()) for value in subject.values):
        array = modality.normalise(value)
        for part, number in modality.parts(value).items():
            require(np.isfinite(number), f"part {part!r} is {number}")
            error = distance(array, modality.normalise(modality.with_part(value, part, number)))
            require(
                error <= 0.02 * spread(subject.arrays),
                f"with_part changes it by {error:.3g} for the {part!r} that it has",
            )
        try:
            modality.with_part(value, "no such part", 0.5)
        except SampleError:
            continue
        require(False, "with_part takes 'no such part'")


CHECKS = (Check(values_are_shown), Check(legends_explain_the_picture), Check(parts_can_be_varied))

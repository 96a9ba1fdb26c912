"""Draws an edit: the original, the hidden or changed part, and the result.

In: a model, a sample and its changes, and the results of `FourM.edit`. Out: a sheet with a row per modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fourm_engine.drawing import Cell, legend_of, sheet
from fourm_engine.evaluate.pictures import hide
from fourm_engine.generate.result import Results
from fourm_engine.generate.vary import seen
from fourm_engine.model import FourM
from fourm_plugins import calls
from fourm_plugins.modality import Modality

if TYPE_CHECKING:
    from PIL.Image import Image


#: Name -> what was given for it: (caption, modality, value as the model sees it).
Given = dict[str, list[tuple[str, Modality, Any]]]


def read_given(model: FourM, sample: Mapping[str, Any], change: Mapping[str, Any]) -> Given:
    """The values of a sample and of its changes. Raises ValueError for an unreadable one, which an edit without a mask
    would not notice, since regenerated modalities are not inputs."""
    given: Given = {}
    for name, value in sample.items():
        given[name] = [("original", *seen(model, name, value))]
    for name, value in change.items():
        given.setdefault(name, []).append(("changed" if name in sample else "added", *seen(model, name, value)))
    return given


def edit_sheet(given: Given, results: Results, *, cell: int = 192) -> Image:
    """A row per modality: as given; as changed, or with the masked part in grey; and as generated (each sample, or
    their combination with its spread). Pictures of a row share a colour scale, with a legend at the end. `cell`: pixels
    of a picture's longer side."""
    rows = []
    for name in {**given, **results}:
        before, (made, spread) = given.get(name, []), _results(results, name)
        modality = before[0][1] if before else results[name].modality
        captions, values = [*(caption for caption, _, _ in before), *made], [value for _, _, value in before]
        values += made.values()
        cells = [Cell(*one) for one in zip(calls.render_all(modality, values), captions, strict=True)]
        if made and before and (known := results[name].given) is not None:
            # Of the result, which shows what is given as it is, and more around it if it was outpainted.
            cells.insert(1, Cell(hide(cells[len(before)].content, known), "to edit"))
        legend = legend_of(modality, values, cell)
        rows.append((name, [*cells, *spread, *([] if legend is None else [Cell(legend)])]))
    return sheet(rows, cell=cell)


def _results(results: Results, name: str) -> tuple[dict[str, Any], list[Cell]]:
    """The generated values, {caption: value}, and the spread, if there is one."""
    if name not in results:
        return {}, []
    if (whole := results[name]).spread is not None:
        return {f"result: {whole.decoded_from}": whole.value}, [Cell(whole.show_spread(), "spread")]
    if len(results.samples) == 1:
        return {"result": whole.value}, []
    return {f"result {number}": one[name].value for number, one in enumerate(results.samples)}, []

"""What an edit did, as a picture: the original, what was hidden or changed, and the result.

In: a model, the sample as given, and the results of `FourM.edit`. Out: a sheet with a row per modality.
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

if TYPE_CHECKING:
    from PIL.Image import Image


def edit_sheet(
    model: FourM, sample: Mapping[str, Any], change: Mapping[str, Any], results: Results, *, cell: int = 192
) -> Image:
    """A row per modality of the sample, the change and the results: as given; as changed, or with what the mask hides
    in grey; and as generated, each sample or their combination with its spread. Pictures of a row share their colours,
    which a legend at its end explains. `cell`: pixels of a picture's longer side."""
    rows = []
    for name in {**sample, **change, **results}:
        given = [seen(model, name, values[name]) for values in (sample, change) if name in values]
        captions = ["original"] * (name in sample) + ["changed" if name in sample else "added"] * (name in change)
        made, spread = _results(results, name)
        modality = given[0][0] if given else results[name].modality
        values = [value for _, value in given] + list(made.values())
        cells = [Cell(p, c) for p, c in zip(calls.render_all(modality, values), [*captions, *made], strict=True)]
        if made and name in sample and (known := results[name].given) is not None:
            cells.insert(1, Cell(hide(cells[0].content, known), "to edit"))
        legend = legend_of(modality, values, cell)
        rows.append((name, [*cells, *spread, *([] if legend is None else [Cell(legend)])]))
    return sheet(rows, cell=cell)


def _results(results: Results, name: str) -> tuple[dict[str, Any], list[Cell]]:
    """What was generated, {caption: value}, and the spread, if there is one."""
    if name not in results:
        return {}, []
    if (whole := results[name]).spread is not None:
        return {f"result: {whole.decoded_from}": whole.value}, [Cell(whole.show_spread(), "spread")]
    if len(results.samples) == 1:
        return {"result": whole.value}, []
    return {f"result {number}": one[name].value for number, one in enumerate(results.samples)}, []

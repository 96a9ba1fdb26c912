"""Probes a model: varies one or two parameters of a request over a range, and compares the results.

In: a model, inputs, and the parameters: a part of an input (the position of a box, the size of a class), an input, or
an option. Out: a `Variation`: the results at all points, and a contact sheet. All points share one seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from fourm_engine.data.raw.aspect import array_aspect
from fourm_engine.drawing import Cell, html_picture, legend_of, sheet
from fourm_engine.generate.input_types import Condition, Ids, Typed
from fourm_engine.generate.inputs import InputReader, read_value
from fourm_engine.generate.keywords import DecodingOptions, SamplingOptions
from fourm_engine.generate.result import Results
from fourm_plugins import calls
from fourm_plugins.counting import counted
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Modality
from fourm_plugins.suggest import did_you_mean
from fourm_plugins.tokenizer import Tokenizer
from fourm_plugins.view import View

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

    from fourm_engine.generate.keywords import GenerateOptions

#: Options that may vary; a guidance weight is `guidance`, or `guidance.NAME` for one input.
OPTIONS = ("seed", "guidance", "temperature", "top_p", "top_k", "steps")
#: Maximum number of results.
MAX_POINTS = 400


class GeneratingModel(Protocol):
    """The part of `FourM` that probing uses."""

    reader: InputReader

    @property
    def modalities(self) -> Mapping[str, Any]: ...

    @property
    def tokenizers(self) -> Mapping[str, Tokenizer]: ...

    def generate_batch(
        self,
        inputs: Sequence[Mapping[str, Any]],
        targets: Any,
        *,
        seeds: Sequence[int] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Results]: ...


@dataclass(frozen=True, repr=False)
class Variation:
    """Results over one or two axes.

    `axes`: parameter -> its values. `points`: the values of each result, with the last axis fastest. `inputs`: the
    inputs of each result."""

    model: GeneratingModel
    axes: dict[str, list[Any]]
    points: list[dict[str, Any]]
    inputs: list[dict[str, Any]]
    results: list[Results]

    def __repr__(self) -> str:
        axes = " x ".join(f"{what} ({counted(len(values), 'value')})" for what, values in self.axes.items())
        return f"<Variation of {axes}: {counted(len(self.results), 'result')} of {', '.join(self.results[0])}>"

    def _repr_html_(self) -> str:
        """The display in a notebook."""
        return html_picture(self.sheet())

    def sheet(self, *, cell: int = 160) -> Image:
        """A contact sheet with a column per value of the last axis and a row per target and per input with a varying
        part. With two axes, the rows repeat for each value of the first. Legends are at the end."""
        width, shown = len(list(self.axes.values())[-1]), dict[str, tuple[list[Any], Any]]()
        for name in dict.fromkeys(what.partition(".")[0] for what in self.axes):
            if name in self.inputs[0]:
                values = [seen(self.model, name, given[name]) for given in self.inputs]
                pictures = calls.render_all(values[0][0], [value for _, value in values])
                if name not in self.axes or not isinstance(pictures[0], str):  # captions already show the texts
                    shown[name] = pictures, legend_of(values[0][0], [value for _, value in values], cell)
        for name, first in self.results[0].items():
            made = [result[name].value for result in self.results]
            shown[name] = calls.render_all(first.modality, made), legend_of(first.modality, made, cell)
        rows, last = list[tuple[str, list[Cell | None]]](), list(self.axes)[-1]
        for start in range(0, len(self.points), width):
            points = self.points[start : start + width]
            before = [f"{what} {_short(value)}, " for what, value in points[0].items() if what != last]
            for name, (pictures, legend) in shown.items():
                cells: list[Cell | None] = [
                    Cell(picture, f"{last} {_short(point[last])}" if name == next(iter(shown)) else "")
                    for picture, point in zip(pictures[start : start + width], points, strict=True)
                ]
                rows.append(("".join(before) + name, [*cells, Cell(legend) if legend is not None else None]))
        return sheet(rows, cell=cell)


def vary(
    model: GeneratingModel,
    inputs: Mapping[str, Any],
    targets: Sequence[str] | str | None,
    axes: Mapping[str, Sequence[Any]],
    *,
    seed: int = 0,
    **options: Unpack[DecodingOptions],
) -> Variation:
    """See `FourM.vary`. Raises ValueError, one line, before anything is generated, for a parameter that cannot
    vary."""
    if not 1 <= len(axes) <= 2:
        raise ValueError(f"vary takes one or two axes, {{what: values}}; given: {len(axes)}")
    for what, values in axes.items():
        if isinstance(values, str) or len(list(values)) < 2:
            raise ValueError(f"{what}: give at least two values to compare, not {values!r:.80}")
    ranges = {what: list(values) for what, values in axes.items()}
    points = [dict(zip(ranges, values, strict=True)) for values in itertools.product(*ranges.values())]
    if len(points) > MAX_POINTS:
        raise ValueError(f"{len(points)} results, but a sheet has at most {MAX_POINTS}; give fewer values")
    if idle := [name for name in SamplingOptions.__annotations__ if name in options]:
        raise ValueError(f"{idle[0]} is for generate; a variation has one result for each value, such as of the seed")
    inputs_of, seeds, results = list[dict[str, Any]](), list[int](), [Results() for _ in points]
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}  # points that differ only in inputs and seeds
    for i, point in enumerate(points):
        given, chosen = _point(model, inputs, {"seed": seed, **options}, point)
        inputs_of.append(given)
        seeds.append(chosen.pop("seed"))
        groups.setdefault(repr(chosen), (chosen, []))[1].append(i)
    for chosen, members in groups.values():
        batch, batch_seeds = [inputs_of[i] for i in members], [seeds[i] for i in members]
        made = model.generate_batch(batch, targets, seeds=batch_seeds, **chosen)
        for i, result in zip(members, made, strict=True):
            results[i] = result
    return Variation(model, ranges, points, inputs_of, results)


def _point(
    model: GeneratingModel, inputs: Mapping[str, Any], options: Mapping[str, Any], point: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(inputs, options) of one point."""
    inputs, options = dict(inputs), dict(options)
    for what, value in point.items():
        name, dot, part = what.partition(".")
        if name in inputs:
            given = inputs[name]
            whole = given.value if isinstance(given, Condition) else given
            changed = _with_part(model, name, whole, part, value) if dot else value
            inputs[name] = replace(given, value=changed) if isinstance(given, Condition) else changed
        elif name == "guidance" and dot:
            weights = options.get("guidance") or {}
            if not isinstance(weights, Mapping):
                raise ValueError(f"{what}: guidance is a single number; leave it out, or vary guidance")
            options["guidance"] = {**weights, part: value}
        elif what in OPTIONS:
            if isinstance(value, str):
                raise ValueError(f"{what}: {value!r:.60} is not a number")
            options[what] = int(value) if what in ("seed", "top_k", "steps") and value == int(value) else value
        elif not dot and name in model.modalities:
            inputs[name] = value
        else:
            known = did_you_mean(name, [*inputs, *OPTIONS], otherwise="there are")
            raise ValueError(f"{what!r} is neither a part of an input nor an option; {known}")
    return inputs, options


def _with_part(model: GeneratingModel, name: str, given: Any, part: str, number: Any) -> Any:
    modality = model.reader.instance(name, raw=True)
    value = read_value(name, modality, given)
    if not isinstance(number, (int, float)):
        raise ValueError(f"{name}.{part}: {number!r:.60} is not a number")
    try:
        if part not in (parts := calls.parts(modality, value)):
            hint = did_you_mean(part, parts, otherwise="it has") if parts else "nothing of it varies by a number"
            raise SampleError(f"no part {part!r} in what is given; {hint}")
        return calls.with_part(modality, value, part, float(number))
    except SampleError as error:
        raise ValueError(f"input {name!r}: {error}") from error


def seen(model: GeneratingModel, name: str, given: Any) -> tuple[Modality, Any]:
    """The modality of an input, and its value as the model sees it."""
    given = given.value if isinstance(given, Condition) else given
    if isinstance(given, Ids):
        modality = model.modalities[name]
        return modality, calls.denormalise(modality, calls.decode(model.tokenizers[name], [given.ids])[0])
    modality = model.reader.instance(name, raw=True)
    value = read_value(name, modality, given)
    if modality.spec.layout.kind != "sequence" or not isinstance(value, str):
        shape = array_aspect(modality.spec) or 1.0
        view = View.centre(source_aspect=modality.aspect(value) or shape, target_aspect=shape)
        value = modality.augment(value, view)
    return modality, value


def _short(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"{value:.4g}"
    text = value.text if isinstance(value, Typed) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"

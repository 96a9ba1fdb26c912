"""Guidance weights of regions that are given separately from the inputs, as on the command line.

In: {name: [(weight, region)]} and the inputs. Out: the inputs, with those that have regions wrapped in `Condition`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fourm_engine.generate.input_types import Condition

#: Name of an input -> (weight, region) pairs, with regions as in `Condition`.
Regions = Mapping[str, Sequence[tuple[float, Any]]]


def with_regions(inputs: Mapping[str, Any], regions: Regions) -> dict[str, Any]:
    """The inputs with their weighted regions. Raises ValueError for a region of an input that is not given."""
    result = dict(inputs)
    for name, pairs in regions.items():
        if name not in inputs:
            raise ValueError(f"region of {name!r}, which is not given; give it, or leave the region out")
        given = inputs[name] if isinstance(inputs[name], Condition) else Condition(inputs[name])
        weights, parts = zip(*pairs, strict=True)
        result[name] = replace(given, weight=list(weights), region=list(parts))
    return result

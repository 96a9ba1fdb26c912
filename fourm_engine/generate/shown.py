"""What generation knows of one sample."""

from __future__ import annotations

from dataclasses import dataclass, field

from fourm_engine.generate.keep import Kept
from fourm_engine.masking.pack import Shown


@dataclass
class Sample:
    """One sample on its way: what is given, and in turn what has been generated."""

    shown: dict[str, Shown] = field(default_factory=dict)
    #: Targets of which a part is given and stays as it is: tokens of a grid, or the beginning of a sequence.
    known: dict[str, Shown] = field(default_factory=dict)
    #: Values of those that are pictures and were given as such.
    kept: dict[str, Kept] = field(default_factory=dict)
    #: Guidance weights that the sample's own conditions carry.
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SequenceIds:
    """Special ids of a sequence's token space: what closes it, what generation starts from, and what ends it."""

    end: int
    start: int
    stop: frozenset[int]

"""A module without some of its parts."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def without(module: M, names: Collection[str]) -> M:
    """`module` without some of its parts; the others are the same objects."""
    other = copy.copy(module)
    for kind in ("_modules", "_parameters"):
        other.__dict__[kind] = {name: part for name, part in module.__dict__[kind].items() if name not in names}
    return other

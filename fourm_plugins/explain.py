"""Explains what is wrong with settings to the person who wrote them. From pydantic's error and the settings' model it
makes one line for each fault: the key's full path, what is wrong, and for an unknown key the nearest known one.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from fourm_plugins.suggest import nearest

#: User, password and query of a URL.
_SECRETS = re.compile(r"(?<=://)[^/@\s]*@|(?<=\w)\?[^\s'\"]*=[^\s'\"]*")


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each fault in settings of `model`."""
    return [_explain(fault, model) for fault in error.errors()]


def _explain(fault: Any, model: type[BaseModel]) -> str:
    # In parentheses: which kind of value was assumed, where a setting allows several.
    loc = [part for part in fault["loc"] if not str(part).startswith("(")]
    *parents, key = loc or ("settings",)
    path = ".".join(str(part) for part in (*parents, key))
    if fault["type"] != "extra_forbidden":
        given = "" if fault["type"] == "missing" else f" (given: {_SECRETS.sub('…', repr(fault['input'])):.80})"
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}{given}"
    fields = _fields_at(model, parents)
    near = nearest(str(key), fields, cutoff=0.4)
    meant = ".".join(str(part) for part in (*parents, near))
    return f"{path}: unknown key; " + (f"did you mean {meant}?" if near else f"known here: {', '.join(fields)}")


def _fields_at(model: type[BaseModel], path: Iterable[Any]) -> list[str]:
    """Names of the fields of the section at `path` below `model`."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            inner = _section(model.model_fields[part].annotation)
            if inner is None:
                return []
            model = inner
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `list[Component]` or `FitConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        if (section := _section(inner)) is not None:
            return section
    return None

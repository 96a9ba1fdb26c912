"""Explains invalid settings to the person who wrote them: one line per fault, from pydantic's error and the settings'
model, with the key's full path, what is wrong, and for an unknown key the nearest known one.
"""

from __future__ import annotations

import re
import reprlib
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from fourm_plugins.counting import printable
from fourm_plugins.suggest import nearest

#: The credentials and query of a URL.
_SECRETS = re.compile(r"(?<=://)[^/@\s]*@|(?<=\w)\?[^\s'\"]*=[^\s'\"]*")

#: Pydantic's wording -> ours.
_WORDS = (
    (re.compile(r"^Value error, |, unable to (parse|interpret) .*"), ""),
    (re.compile(r"^Input should be "), "must be "),
    (re.compile(r"^Input is not a valid path for .*"), "must be a path"),
    (re.compile(r"^Field required$"), "is missing"),
    (re.compile(r"a valid (dictionary|mapping)( or (instance|object) .*)?"), "a section of keys and values"),
    (re.compile(r"a valid integer"), "an integer"),
    (re.compile(r"a valid string"), "a text"),
    (re.compile(r"a valid boolean"), "true or false"),
    (re.compile(r"a valid (list|tuple|number)"), r"a \1"),
)


class _Given(reprlib.Repr):
    """A value as shown in a message: long texts and lists are shortened, never in the middle of an entry, and the
    secrets of URLs are removed."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 2, 4, 4, 4
        self.maxstring = self.maxother = 60

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(_SECRETS.sub("…", x), level)


def plain(message: str) -> str:
    """Pydantic's message in our wording."""
    for pattern, words in _WORDS:
        message = pattern.sub(words, message)
    return message


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each fault in settings of `model`."""
    return [printable(_explain(fault, model).replace("\n", " ")) for fault in error.errors()]


def _explain(fault: Any, model: type[BaseModel]) -> str:
    # In parentheses: which kind of value was assumed, if a setting allows several.
    loc = [part for part in fault["loc"] if not str(part).startswith("(")]
    *parents, key = _as_written(loc, model) or ("settings",)
    path = ".".join(str(part) for part in (*parents, key))
    if fault["type"] != "extra_forbidden":
        whole = fault["type"] == "missing" or (fault["type"] == "value_error" and isinstance(fault["input"], dict))
        given = "" if whole else f" (given: {_Given().repr(fault['input'])})"
        return f"{path}: {plain(fault['msg'])}{given}"
    fields = list(fault_model.model_fields) if (fault_model := _model_at(model, loc[:-1])) else []
    near = nearest(str(key), fields, cutoff=0.4)
    meant = ".".join(str(part) for part in (*parents, near))
    return f"{path}: unknown key; " + (f"did you mean {meant}?" if near else f"known here: {', '.join(fields)}")


def _as_written(loc: Sequence[Any], model: type[BaseModel]) -> list[Any]:
    """A path without the tags that pydantic adds for the members of a discriminated union."""
    return [part for i, part in enumerate(loc) if not (i and _members(model, loc[:i]).get(part))]


def _members(model: type[BaseModel], path: Sequence[Any]) -> dict[Any, type[BaseModel]]:
    """Tag -> section, if the field at `path` is a discriminated union."""
    above, field = _model_at(model, path[:-1]), path[-1]
    if above is None or field not in above.model_fields or not (info := above.model_fields[field]).discriminator:
        return {}
    members = [m for m in typing.get_args(info.annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    return {member.model_fields[str(info.discriminator)].default: member for member in members}


def _model_at(model: type[BaseModel], path: Sequence[Any]) -> type[BaseModel] | None:
    """The section at `path` below `model`; None if it has no fields."""
    at: type[BaseModel] | None = model
    for i, part in enumerate(path):
        if i and (member := _members(model, path[:i]).get(part)):
            at = member
        elif isinstance(part, str) and at is not None and part in at.model_fields:
            at = _section(at.model_fields[part].annotation)
    return at


def keys_named(name: str, model: type[BaseModel], above: str = "") -> list[str]:
    """Full keys of the settings called `name` in `model` and its sections, except entries of lists."""
    keys = list[str]()
    for key, info in model.model_fields.items():
        plain_section = typing.get_origin(info.annotation) not in (list, tuple, dict)
        if plain_section and (section := _section(info.annotation)) is not None:
            keys += keys_named(name, section, f"{above}{key}.")
        elif key == name:
            keys.append(above + key)
    return keys


def _section(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `list[Component]` or `FitConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        if (section := _section(inner)) is not None:
            return section
    return None

"""The settings of a plugin: names, types, defaults and descriptions.

In: a pydantic model whose fields have `#:` comments above them (the style of this project) or descriptions, or a
function. Out: a list of `Setting`, with dotted names for nested sections.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

_COMMENT = re.compile(r"^\s*#:\s?(.*)$")
_FIELD = re.compile(r"^\s+(\w+)\s*:")


@dataclass(frozen=True)
class Setting:
    """`value` is the current one; it differs from `default` if a config sets it. A required setting has no default."""

    name: str
    type: str
    required: bool
    default: Any
    value: Any
    meaning: str


def describe_settings(model: type[BaseModel], instance: BaseModel | None = None) -> list[Setting]:
    """Every field of `model`, in order; values are those of `instance`, or the defaults."""
    return _describe(model, None, instance, "")


def describe_options(make: Callable[..., Any]) -> list[Setting]:
    """The parameters of a function or class that have defaults, in order."""
    options = []
    for name, parameter in inspect.signature(make).parameters.items():
        default = parameter.default
        if default is parameter.empty:
            continue
        annotation = type(default) if parameter.annotation is parameter.empty else parameter.annotation
        options.append(Setting(name, _type(annotation), False, _plain(default), _plain(default), ""))
    return options


def _describe(
    model: type[BaseModel], defaults: BaseModel | None, instance: BaseModel | None, prefix: str
) -> list[Setting]:
    """`defaults`: values without a config, if they differ from those of the fields."""
    meanings, settings = _meanings(model), []
    for name, field in model.model_fields.items():
        required = defaults is None and field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        default = getattr(defaults, name) if defaults is not None else default
        value = getattr(instance, name) if instance is not None else default
        if isinstance(default, BaseModel) and isinstance(value, BaseModel):
            settings += _describe(type(default), default, value, f"{prefix}{name}.")
            continue
        meaning = field.description or meanings.get(name, "")
        kind = _type(field.annotation)
        settings.append(Setting(prefix + name, kind, required, _plain(default), _plain(value), meaning))
    return settings


def _type(annotation: Any) -> str:
    """A type's name, without modules."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"\b[\w.]+\.(\w+)", r"\1", text)


def _plain(value: Any) -> Any:
    """The value as in JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> its `#:` comment, including those of base classes; {} if there is no source."""
    meanings: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not (issubclass(cls, BaseModel) and cls is not BaseModel):
            continue
        try:
            lines = inspect.getsource(cls).splitlines()
        except (OSError, TypeError):
            continue
        comment: list[str] = []
        for line in lines:
            if match := _COMMENT.match(line):
                comment.append(match[1].strip())
                continue
            if (field := _FIELD.match(line)) and comment:
                meanings[field[1]] = " ".join(comment)
            comment = []
    return meanings

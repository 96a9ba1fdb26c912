"""Settings of modalities, tokenizers and labellers, and the flat form in which they are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """What a user may set for a modality in a config. Misspelt keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    #: What to set for an instance that is small enough to be tested in seconds: a few tokens, a few codes.
    small: ClassVar[Mapping[str, Any]] = {}
    #: Settings that only change how a value is shown. A class adds to those of its bases.
    display_only: ClassVar[frozenset[str]] = frozenset()
    #: Settings that change neither ids nor what they decode to: where files lie, which masker. A class adds to those of
    #: its bases.
    run_only: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for declared in ("display_only", "run_only"):
            if unknown := sorted(vars(cls).get(declared, frozenset()) - cls.model_fields.keys()):
                names = ", ".join(unknown)
                raise TypeError(f"{cls.__name__}.{declared} names {names}, which is no setting of the class")


def flat_settings(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Path -> JSON-ready value of every setting that is neither `display_only` nor `run_only`."""
    bases = type(settings).__mro__
    left_out = {name for base in bases for key in ("display_only", "run_only") for name in vars(base).get(key, ())}
    plain, paths = settings.model_dump(mode="json"), dict[str, Any]()
    for name in plain.keys() - left_out:
        value = getattr(settings, name, None)
        if isinstance(value, BaseModel):
            paths |= flat_settings(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, BaseModel) for item in value):
            for index, item in enumerate(value):
                paths |= flat_settings(item, f"{prefix}{name}.{index}.")
        else:
            paths |= flat({name: plain[name]}, prefix)
    return dict(sorted(paths.items()))


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Path -> value of every leaf below `data`, descending into mappings and lists of mappings."""
    paths: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        paths |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return paths

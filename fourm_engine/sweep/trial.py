"""A trial: its name and folder, its config or command, and its measure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fourm_engine.sweep.config import RESULT, Measure

#: Maximum length of a folder's name.
MAX_NAME = 120
_ODD = re.compile(r"[^\w.+=@-]+", re.ASCII)


@dataclass(frozen=True)
class Trial:
    """One run, or one command."""

    #: Its folder within the sweep's: "trials/…".
    folder: str
    #: Axis -> its value or name, without the seed; trials of the same point are averaged.
    point: dict[str, Any]
    seed: int
    #: The config to train, or {"command": [words]}; empty until a search has drawn it.
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    measure: Measure = field(default_factory=Measure)
    #: The folder of a trial that must finish first.
    needs: str | None = None
    #: File to which a command writes its numbers.
    result: str = RESULT
    #: Number of the draw, in an adaptive search.
    draw: int | None = None

    @property
    def name(self) -> str:
        return self.folder.rpartition("/")[2]

    @property
    def is_command(self) -> bool:
        return "command" in self.content


def name_of(parts: Mapping[str, Any]) -> str:
    """ "a=1,b=x", as the name of a folder; one that would be too long ends in a digest."""
    words, whole = [], True
    for key, value in parts.items():
        text = shown(value)
        clean = slug(text)
        words.append(f"{_ODD.sub('-', key)}={clean}")
        plain = not any(isinstance(v, dict | list) for v in (value if isinstance(value, list) else [value]))
        whole &= plain and clean == text.replace(" ", "-")
    name = ",".join(words)
    if whole and len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}-{digest}"


def slug(text: str) -> str:
    """A text as the name of a folder."""
    return _ODD.sub("-", text).strip(".")[:MAX_NAME] or "-"


def shown(value: Any) -> str:
    """A config value as shown in tables."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return str(value["name"])
    if isinstance(value, list | tuple):
        return "+".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, sort_keys=True, default=str)


def short_names(keys: list[str]) -> dict[str, str]:
    """Key -> its last part, or the whole key if that is ambiguous."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)}

"""Apply command-line overrides, `section.key=value`, to the values of a config before validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fourm_engine.device import rank_and_world
from fourm_engine.yaml_config import apply_override

log = logging.getLogger(__name__)
#: Sections that set the length of a training; and a length -> the parts of a schedule in its unit.
_SECTIONS = ("train", "tokenizers.fit")
#: Minimum ratio of a run's length to that of its ramps.
_RAMPS = 4
_PARTS = {"steps": ("warmup", "cooldown"), "tokens": ("warmup_tokens", "cooldown_tokens")}


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set the overrides in `raw`. If one shortens a run so that the config's warm-up and cool-down would exceed a
    quarter of it, both are shortened by the same factor, which is logged. Raises ConfigError."""
    before = {name: dict(_section(raw, name)) for name in _SECTIONS}
    for override in overrides:
        apply_override(raw, override)
    given = {override.partition("=")[0] for override in overrides}
    for name in _SECTIONS:
        section = _section(raw, name)
        for unit, parts in _PARTS.items():
            length, full = _number(section.get(unit)), _number(before[name].get(unit))
            ramps = {part: _number(section.get(part)) for part in parts if _number(section.get(part))}
            fixed = given & {f"{name}.{part}" for part in parts}
            if fixed or not 0 < length < _RAMPS * sum(ramps.values()) or length >= full:
                continue
            shorter = {part: max(1, int(value * length / full)) for part, value in ramps.items()}
            section.update(shorter)
            if rank_and_world()[0] == 0:
                words = ", ".join(f"{name}.{part}={value} (was {ramps[part]:g})" for part, value in shorter.items())
                log.warning("%s.%s=%g is short; in proportion, %s", name, unit, length, words)


def _section(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section that can be changed in place; empty if it is missing or not a mapping."""
    section: Any = raw
    for part in name.split("."):
        section = section.get(part) if isinstance(section, Mapping) else None
    return section if isinstance(section, dict) else {}


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0

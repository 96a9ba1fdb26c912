"""A plugin's description as lines of text, for people."""

from __future__ import annotations

from typing import Any

_WIDTH = 18


def print_description(description: dict[str, Any]) -> None:
    """`found`: what `fourm_engine.installed.describe` made."""
    print(f"{description['kind']} {description['name']}: {description['distribution']} {description['version']}")
    _line("from", f"{description['value']} in {description['location']}")
    for key in ("description", "tokens", "order"):
        _line(key, description.get(key))
    for key in ("layout", "array", "token space"):
        _line(key, _plain(description.get(key)))
    tokenizer = description.get("tokenizer")
    if tokenizer:
        _line("tokenizer", f"{tokenizer['kind']}, provided by {tokenizer['provided by']}")
        _line("  settings", _plain(tokenizer["settings"]))
        _line("  fitted", _plain(tokenizer.get("fitted")))
    for key in ("masker", "used as", "aligned with", "published as", "licence"):
        _line(key, description.get(key))
    _line("files", ", ".join(description.get("files", ())))
    for metric in description.get("metrics", ()):
        unit = f" in {metric['unit']}" if metric["unit"] else ""
        _line("metric", f"{metric['name']}{unit}, {metric['better']} is better")
    normalisation = description.get("normalisation") or {}
    _line("normalisation", normalisation.get("in words"))
    for what, numbers in (normalisation.get("example") or {}).items():
        _line(f"  {what}" if len(what) < _WIDTH else "  round trip", numbers)
    _line("spec fingerprint", description.get("spec fingerprint"))
    _line("conformance", _plain(description.get("conformance")) or "no report")
    if description["about"]:
        print("\n" + "\n".join(f"  {line}" for line in description["about"].splitlines()))
    if description["settings"]:
        print("\nsettings")
    for setting in description["settings"]:
        default = "required" if setting["required"] else f"default {setting['default']!r}"
        changed = f", here {setting['value']!r}" if setting["value"] != setting["default"] else ""
        print(f"  {setting['name']} ({setting['type']}, {default}{changed})")
        if setting["meaning"]:
            print(f"      {setting['meaning']}")
    print()


def _line(key: str, value: Any) -> None:
    if value not in (None, "", ()):
        print(f"{key:{_WIDTH}}{value}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return "" if value is None else str(value)

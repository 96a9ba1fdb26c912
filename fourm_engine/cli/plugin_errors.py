"""Which plugin's code raised an error that nobody foresaw: then one line names it, and no traceback is shown."""

from __future__ import annotations

import traceback
from pathlib import Path

from fourm_plugins.discovery import ENGINE, Plugin, PluginError
from fourm_plugins.errors import one_line


def fault(error: BaseException) -> str | None:
    """The line for an error that a plugin's code raised, or a library that it called; None for one of the engine's own,
    even if a plugin called it."""
    if (where := _raised_in(error)) is None:
        return None
    plugin, place = where
    said = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
    return f"{plugin.distribution} {plugin.version} ({place}) failed with {said}; repair, upgrade or disable it"


def source(error: BaseException) -> str:
    """Whose words a ValueError or OSError has, if they are a plugin's and do not say so; "" otherwise."""
    if isinstance(error, PluginError) or (where := _raised_in(error, last=True)) is None:
        return ""
    plugin, place = where
    known = plugin.kind == "command" or plugin.distribution in str(error)  # who calls a command knows whose it is
    return "" if known else f" (said by {plugin.distribution} {plugin.version}, {place})"


def _raised_in(error: BaseException, *, last: bool = False) -> tuple[Plugin, str] | None:
    """(plugin, file:line) of the innermost frame that is a plugin's; `last`: of the last frame only."""
    from fourm_plugins.manager import PluginManager

    owners = {p.package: p for p in reversed(PluginManager().plugins) if p.distribution != ENGINE}
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, line in reversed(frames[-1:] if last else frames):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == "fourm_engine":
            return None
        if package in owners:
            return owners[package], f"{Path(frame.f_code.co_filename).name}:{line}"
    return None

"""Optional dependencies: imported on use; if one is missing, the error says in one line what to install."""

from __future__ import annotations

import importlib
from types import ModuleType


def optional(module: str, *, what: str, install: str) -> ModuleType:
    """Import and return an optional dependency.

    Args:
        what: what needs it, as the start of the message: "charts need".
        install: what pip installs, a distribution with its extra.

    Raises ValueError if it is not installed or cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{what} {module.partition('.')[0]}: pip install '{install}' ({error})") from error

"""Activates one plugin: import, hooks, validation; all or nothing.

Takes a `Plugin` and returns what it provides: a class, a function, or an observer. Any failure (an import that raises,
exits or hangs, an unknown hook, a class that breaks the contract of its group, see `contract`) becomes a PluginError
with the original traceback and is rolled back: the modules of the plugin's distribution are removed from `sys.modules`.
Changes that an import makes to the process are undone (`guard`).
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fourm_plugins.contract import arguments, check, check_hooks, hook_name
from fourm_plugins.discovery import ENGINE, Plugin, PluginError
from fourm_plugins.distributions import find_distribution
from fourm_plugins.errors import one_line
from fourm_plugins.guard import Stopped, guarded

log = logging.getLogger(__name__)
T = TypeVar("T")


def activate(plugin: Plugin, *, witness: bool = True, changed: list[str] | None = None) -> Any:
    """Import `plugin` and return what it provides. Raises PluginError after undoing everything. `witness` is passed to
    `guarded`. Changes that the import made to the process are appended to `changed`, or logged."""
    before = set(sys.modules)

    def load() -> Any:
        loaded = importlib.metadata.EntryPoint(plugin.name, plugin.value, "").load()
        return check(plugin, _provided(plugin, loaded) if inspect.ismodule(loaded) else loaded)

    try:
        return run(plugin, "activated", load, witness=witness, changed=changed)
    except BaseException:
        _forget(plugin, before)
        raise


def run(
    plugin: Plugin, what: str, code: Callable[[], T], *, witness: bool = True, changed: list[str] | None = None
) -> T:
    """Run code of `plugin`, which is to be `what`, and return its result. Raises PluginError for any error but Ctrl-C;
    a ValueError passes unchanged where the user's settings may be the cause."""
    origin = f"{plugin.kind} {plugin.name!r} of {plugin.distribution} {plugin.version} ({plugin.value})"
    remedy = f"repair or upgrade {plugin.distribution}, or run without it: --no-plugin {plugin.name}"
    try:
        with guarded(origin, remedy, witness=witness) as side_effects:
            result = code()
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, Stopped)) or (what != "activated" and isinstance(error, ValueError)):
            raise
        raise PluginError(
            f"{plugin.kind} {plugin.name!r} cannot be {what}: {plugin.distribution} {plugin.version} "
            f"({plugin.value}) failed with {type(error).__name__}: {one_line(error)}. {remedy[0].upper()}{remedy[1:]}\n"
            f"{traceback.format_exc()}"
        ) from error
    if changed is not None:
        changed += side_effects
    elif side_effects:
        log.warning("%s changed %s; put back", origin, ", ".join(side_effects))
    return result


@contextmanager
def blame(plugin: Plugin) -> Iterator[None]:
    """Turn errors of the body into a PluginError that names `plugin`, except ValueError and OSError, which the user may
    have caused."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        if plugin.distribution == ENGINE:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            f"{plugin.kind} {plugin.name!r} of {plugin.distribution} {plugin.version} failed with "
            f"{type(error).__name__}: {one_line(error)} ({where.filename}:{where.lineno})"
        ) from error


def _provided(plugin: Plugin, module: Any) -> Any:
    """What a module with hooks provides under the plugin's name; a module of observers is the observer itself."""
    hooks = check_hooks(module)
    wanted = f"fourm_{plugin.kind}"
    if plugin.kind == "observer":
        return module
    if wanted not in hooks:
        has = f"its hooks are {', '.join(sorted(hooks))}" if hooks else "it has no hooks"
        raise TypeError(f"module {plugin.value!r} defines no hook {wanted!r}, which its entry point promises; {has}")
    implementations = [f for f in vars(module).values() if inspect.isroutine(f) and hook_name(f) == wanted]
    return implementations[0](*[plugin.name] * len(arguments(implementations[0])))


def _forget(plugin: Plugin, before: set[str]) -> None:
    """Remove the plugin's own modules that were imported since `before`. Those of other distributions stay: an
    extension module such as NumPy's cannot be imported twice."""
    packages = {plugin.package}
    try:
        files = find_distribution(plugin.distribution).files or ()
        packages |= {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}
    except Exception:  # no such distribution (a local example), or a damaged list of files: use the package alone
        pass
    for name in sorted(set(sys.modules) - before, reverse=True):
        if name.partition(".")[0] in packages:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(child, None)

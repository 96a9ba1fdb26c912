"""Activating one plugin: import, hooks, validation; all of it or nothing.

In: a `Plugin`. Out: its class. Whatever goes wrong (an import that fails, exits or hangs, a hook that does not exist, a
class that is not what its group promises) ends in a PluginError with the original traceback and leaves no trace: the
modules of the plugin's distribution are gone from `sys.modules`, and pluggy's registry was made for this plugin alone.
What an import changes of the process is put back (`guard`).
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import pluggy
from pydantic import BaseModel

from fourm_plugins import hookspecs
from fourm_plugins.discovery import Kind, Plugin, PluginError, one_line
from fourm_plugins.guard import guarded
from fourm_plugins.masker import Masker
from fourm_plugins.metadata import find_distribution
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)
T = TypeVar("T")

_BASES: dict[Kind, type] = {"modality": Modality, "tokenizer": Tokenizer, "masker": Masker}
_HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("fourm_")}


def activate(plugin: Plugin, *, witness: bool = True, changed: list[str] | None = None) -> Any:
    """The class that `plugin` provides. Raises PluginError, having undone everything.

    `witness`: as of `guarded`. What the import changed of the process is added to `changed`, or logged."""
    before = set(sys.modules)

    def load() -> Any:
        loaded = importlib.metadata.EntryPoint(plugin.name, plugin.value, "").load()
        cls = loaded if inspect.isclass(loaded) else _ask(plugin, loaded)
        _check_class(plugin, cls)
        return cls

    try:
        return run(plugin, "activated", load, witness=witness, changed=changed)
    except BaseException:
        _forget(plugin, before)
        raise


def run(
    plugin: Plugin, what: str, code: Callable[[], T], *, witness: bool = True, changed: list[str] | None = None
) -> T:
    """The result of code of `plugin`, which is about to be `what`. Raises PluginError for all that goes wrong in it but
    Ctrl-C, and ValueError as it is where what goes wrong may be the user's settings."""
    origin = f"{plugin.kind} {plugin.name!r} of {plugin.distribution} {plugin.version} ({plugin.value})"
    remedy = f"repair or upgrade {plugin.distribution}, or run without it: --no-plugin {plugin.name}"
    try:
        with guarded(origin, remedy, witness=witness) as found:
            result = code()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or (what != "activated" and isinstance(error, ValueError)):
            raise
        raise PluginError(
            f"{plugin.kind} {plugin.name!r} cannot be {what}: {plugin.distribution} {plugin.version} "
            f"({plugin.value}) failed with {type(error).__name__}: {one_line(error)}. {remedy[0].upper()}{remedy[1:]}\n"
            f"{traceback.format_exc()}"
        ) from error
    if changed is not None:
        changed += found
    elif found:
        log.warning("%s changed %s; put back", origin, ", ".join(found))
    return result


def _ask(plugin: Plugin, module: Any) -> Any:
    """What a module with hooks answers for the plugin's name."""
    if not inspect.ismodule(module):
        raise TypeError(f"{plugin.value} is a {type(module).__name__}, neither a class nor a module with hooks")
    wanted = f"fourm_{plugin.kind}"
    found = _check_hooks(module)
    if wanted not in found:
        has = f"its hooks are {', '.join(sorted(found))}" if found else "it has no hooks"
        raise TypeError(f"module {plugin.value!r} defines no hook {wanted!r}, which its entry point promises; {has}")
    host = pluggy.PluginManager("fourm")
    host.add_hookspecs(hookspecs)
    host.register(module, name=f"{plugin.distribution}:{plugin.kind}:{plugin.name}")
    host.check_pending()
    return getattr(host.hook, wanted)(**dict.fromkeys(_arguments(_HOOKS[wanted]), plugin.name))


def _check_hooks(module: Any) -> set[str]:
    """Names of the hooks that a module implements. Raises TypeError for what pluggy would ignore without a word: a hook
    that does not exist, or is not marked; and for arguments that its hook does not take."""
    found = set()
    for attribute, function in vars(module).items():
        marked = getattr(function, "fourm_impl", None) if inspect.isroutine(function) else None
        if marked is None and not (attribute.startswith("fourm_") and inspect.isroutine(function)):
            continue
        name = (marked or {}).get("specname") or attribute
        if name not in _HOOKS:
            near = difflib.get_close_matches(name, _HOOKS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(_HOOKS))}"
            raise TypeError(f"unknown hook {name!r}; {hint}")
        if marked is None:
            raise TypeError(f"hook {name!r} is not marked with @fourm_plugins.hookimpl")
        takes, has = _arguments(_HOOKS[name]), _arguments(function)
        if wrong := [argument for argument in has if argument not in takes]:
            near = difflib.get_close_matches(wrong[0], takes, n=1)
            hint = f"; did you mean {near[0]!r} by {wrong[0]!r}?" if near else ""
            raise TypeError(f"hook {name!r} takes ({', '.join(takes)}), here it has ({', '.join(has)}){hint}")
        found.add(name)
    return found


def _arguments(function: Any) -> list[str]:
    """Names of the arguments that a call must give."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _check_class(plugin: Plugin, cls: Any) -> None:
    base = _BASES[plugin.kind]
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise TypeError(f"{plugin.value} gives {cls!r}, not a subclass of fourm_plugins.{base.__name__}")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        own = sorted(name for name in dir(cls) if not name.startswith("_") and not hasattr(base, name))
        parts = []
        for name in missing:
            near = difflib.get_close_matches(name, own, n=1, cutoff=0.7)
            parts.append(name + (f" (it has {near[0]!r}: misspelt?)" if near else ""))
        raise TypeError(f"{plugin.value} does not define {', '.join(parts)}")
    for name in sorted(base.__abstractmethods__):  # type: ignore[attr-defined]
        _check_method(plugin, cls, base, name)
    settings = getattr(cls, "Settings", None)
    if plugin.kind != "masker" and not (inspect.isclass(settings) and issubclass(settings, BaseModel)):
        raise TypeError(f"{plugin.value}: Settings is {settings!r}, not a subclass of fourm_plugins.Settings")
    if plugin.kind == "tokenizer" and getattr(cls, "kind", None) != plugin.name:
        raise TypeError(
            f"{plugin.value}: its `kind` is {getattr(cls, 'kind', None)!r}, its entry point is called {plugin.name!r}; "
            f"files name tokenizers by kind, so give both one name"
        )


def _check_method(plugin: Plugin, cls: type, base: type, name: str) -> None:
    """A method must take what the engine gives it; otherwise a run would find out hours later."""
    promised, written = inspect.getattr_static(base, name), inspect.getattr_static(cls, name)
    if not (inspect.isfunction(promised) and inspect.isfunction(written)):
        return  # a property, or something built by the author's own means
    parameters = inspect.signature(promised).parameters.values()
    keywords = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(written).bind(*[None] * (len(parameters) - len(keywords)), **keywords)
    except TypeError as error:
        raise TypeError(
            f"{plugin.value}: {name} is written {name}{inspect.signature(written)}, and the engine calls it with "
            f"({', '.join(p.name for p in parameters)}): {error}"
        ) from None


def _forget(plugin: Plugin, before: set[str]) -> None:
    """Remove the modules of the plugin's distribution that were imported since `before`. What others brought stays: an
    extension module such as NumPy's cannot be imported twice."""
    packages = {plugin.package}
    try:
        files = find_distribution(plugin.distribution).files or ()
        packages |= {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}
    except Exception:  # no such distribution (an example of one's own), or a damaged list of files: the package it is
        pass
    for name in sorted(set(sys.modules) - before, reverse=True):
        if name.partition(".")[0] in packages:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(child, None)

"""What each kind of plugin must provide, checked on activation rather than hours into a run.

Returns the object of an entry point, or an instance if it is an observer's class; raises TypeError, saying what is
wrong with it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from fourm_plugins import hookspecs
from fourm_plugins.discovery import Kind, Plugin
from fourm_plugins.masker import Masker
from fourm_plugins.modality import Modality
from fourm_plugins.order import DecodingOrder
from fourm_plugins.source import SampleSource
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.suggest import did_you_mean, nearest
from fourm_plugins.tokenizer import Tokenizer

_BASES: dict[Kind, type] = {"modality": Modality, "tokenizer": Tokenizer, "masker": Masker}
_HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("fourm_")}
#: Arguments that the engine passes to functions: the number of positional ones, and the names of keyword ones.
_CALLS: dict[Kind, tuple[int, tuple[str, ...]]] = {
    "optimiser": (1, ("lr",)),
    "schedule": (1, ("steps", "lr", "min_lr", "warmup", "cooldown")),
    "order": (5, ()),
    "head": (1, ()),
    "source": (2, ()),
}
#: Largest number of ids in a token space: each is a row of two tables of the model.
MOST_IDS = 1 << 24
#: What may precede the colon of `NAME:LOCATION`; a single letter is a Windows drive.
SCHEME = re.compile(r"[a-z][a-z0-9_+-]+")


def check(plugin: Plugin, provided: Any) -> Any:
    """Raise TypeError unless `provided` meets the contract of the group of the plugin's entry point."""
    if plugin.kind in _BASES:
        _check_class(plugin, provided)
    elif plugin.kind == "observer":
        return _check_observer(plugin, provided)
    elif plugin.kind in _CALLS:
        if plugin.kind == "source":
            _check_source(plugin, provided)
        if inspect.isclass(provided) and issubclass(provided, DecodingOrder):
            for name in ("fixed_scores", "score", "count", "remask"):
                _check_method(plugin, provided, DecodingOrder, name)
        else:
            _check_call(plugin, provided)
    elif not callable(provided):
        raise TypeError(f"{plugin.value} is a {type(provided).__name__}, neither a function nor a Typer app")
    return provided


def check_instance(plugin: Plugin, modality: Modality[Any], name: str) -> Modality[Any]:
    """Raise TypeError if the spec of an instance called `name` is not a ModalitySpec, has another name, or differs
    between two calls; ValueError, since settings may be the cause, for a vocabulary that no model can hold."""
    spec = modality.spec
    if not isinstance(spec, ModalitySpec):
        raise TypeError(f"{plugin.value}: make_spec gives {spec!r:.80}, not a fourm_plugins.ModalitySpec")
    if spec.name != name:
        raise TypeError(f"{plugin.value}: make_spec calls {name!r} {spec.name!r}; name it self.name")
    if (again := modality.make_spec()) != spec:
        was, now = spec.model_dump(), again.model_dump()
        field = next(key for key in was if was[key] != now[key])
        raise TypeError(f"{plugin.value}: make_spec does not give the same spec twice; they differ in {field}")
    if spec.token_space is not None and spec.token_space.size > MOST_IDS:
        raise ValueError(f"{spec.token_space.size:,} ids; {MOST_IDS:,} are the most of a modality")
    return modality


def check_hooks(plugin: Any) -> set[str]:
    """Names of the hooks that a module or an observer implements. Raises TypeError for what pluggy would ignore
    silently: an unknown hook, or one that is not marked; and for arguments that the hook does not pass."""
    names = set()
    for attribute in dir(plugin):
        function = inspect.getattr_static(plugin, attribute)
        marked = hook_name(function)
        if not inspect.isroutine(function) or (marked is None and not attribute.startswith("fourm_")):
            continue
        name = marked or attribute
        if name not in _HOOKS:
            raise TypeError(f"unknown hook {name!r}; {did_you_mean(name, _HOOKS, otherwise='there are')}")
        if marked is None:
            raise TypeError(f"hook {name!r} is not marked with @fourm_plugins.hookimpl")
        takes, has = arguments(_HOOKS[name]), arguments(getattr(plugin, attribute))
        if wrong := [argument for argument in has if argument not in takes]:
            near = nearest(wrong[0], takes)
            hint = f"; did you mean {near!r} by {wrong[0]!r}?" if near else ""
            raise TypeError(f"hook {name!r} takes ({', '.join(takes)}), here it has ({', '.join(has)}){hint}")
        names.add(name)
    return names


def hook_name(function: Any) -> str | None:
    """The hook that a function marked with `hookimpl` implements; None for any other."""
    marked = getattr(function, "fourm_impl", None)
    return None if marked is None else marked.get("specname") or function.__name__


def arguments(function: Any) -> list[str]:
    """Names of the required arguments."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _check_observer(plugin: Plugin, provided: Any) -> Any:
    observer = provided() if inspect.isclass(provided) else provided
    hooks = sorted(check_hooks(observer))
    if not hooks:
        raise TypeError(f"{plugin.value} has no method that is marked with @fourm_plugins.hookimpl")
    if providing := [name for name in hooks if _HOOKS[name].fourm_spec["firstresult"]]:
        raise TypeError(f"{plugin.value} is an observer; {providing[0]} provides something, in a group of its own")
    return observer


def _check_call(plugin: Plugin, function: Callable[..., Any]) -> None:
    if not callable(function):
        raise TypeError(f"{plugin.value} is a {type(function).__name__}, not a function")
    number, names = _CALLS[plugin.kind]
    try:
        inspect.signature(function).bind(*[None] * number, **dict.fromkeys(names))
    except TypeError as error:
        given = ", ".join([*["…"] * number, *(f"{name}=…" for name in names)])
        raise TypeError(f"{plugin.value} is called with ({given}): {error}") from None


def _check_source(plugin: Plugin, provided: Any) -> None:
    if not SCHEME.fullmatch(plugin.name):
        raise TypeError(
            f"its entry point is called {plugin.name!r}; users write it before a colon, as data.train: name:location, "
            f"so it needs two or more of a-z, 0-9, _, + and -, the first a letter"
        )
    if inspect.isclass(provided):
        if not issubclass(provided, SampleSource):
            raise TypeError(f"{plugin.value} gives {provided!r}, not a subclass of fourm_plugins.SampleSource")
        _check_methods(plugin, provided, SampleSource)


def _check_class(plugin: Plugin, cls: Any) -> None:
    base = _BASES[plugin.kind]
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise TypeError(f"{plugin.value} gives {cls!r}, not a subclass of fourm_plugins.{base.__name__}")
    _check_methods(plugin, cls, base)
    settings = getattr(cls, "Settings", None)
    if plugin.kind != "masker" and not (inspect.isclass(settings) and issubclass(settings, BaseModel)):
        raise TypeError(f"{plugin.value}: Settings is {settings!r}, not a subclass of fourm_plugins.Settings")
    if plugin.kind == "tokenizer" and getattr(cls, "kind", None) != plugin.name:
        raise TypeError(
            f"{plugin.value}: its `kind` is {getattr(cls, 'kind', None)!r}, its entry point is called {plugin.name!r}; "
            f"files name tokenizers by kind, so give both one name"
        )


def _check_methods(plugin: Plugin, cls: Any, base: type) -> None:
    """Check that a class defines its base's abstract methods, with the arguments that the engine passes."""
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        added = sorted(name for name in dir(cls) if not name.startswith("_") and not hasattr(base, name))
        alike = {name: nearest(name, added, cutoff=0.7) for name in missing}
        parts = [name + (f" (it has {near!r}: misspelt?)" if near else "") for name, near in alike.items()]
        raise TypeError(f"{plugin.value} does not define {', '.join(parts)}")
    for name in sorted(base.__abstractmethods__):  # type: ignore[attr-defined]
        _check_method(plugin, cls, base, name)


def _check_method(plugin: Plugin, cls: type, base: type, name: str) -> None:
    """Check that a method accepts the arguments that the engine passes."""
    promised, written = inspect.getattr_static(base, name), inspect.getattr_static(cls, name)
    if not (inspect.isfunction(promised) and inspect.isfunction(written)):
        return  # a property, or built by other means
    parameters = inspect.signature(promised).parameters.values()
    keywords = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(written).bind(*[None] * (len(parameters) - len(keywords)), **keywords)
    except TypeError as error:
        raise TypeError(
            f"{plugin.value}: {name} is written {name}{inspect.signature(written)}, and the engine calls it with "
            f"({', '.join(p.name for p in parameters)}): {error}"
        ) from None

"""The plugin host: knows every installed plugin and its state, and activates the requested ones.

Discovery (`discovery`) reads metadata only and imports no plugin. The group's name contains the API version
(`fourm.modalities.v1`), so that a plugin for another API is recognised before it is imported. Activation (`activation`)
is transactional.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pluggy

from fourm_plugins import hookspecs
from fourm_plugins.discovery import (
    API_VERSION,
    Kind,
    Plugin,
    PluginError,
    State,
    decide,
    discover_all,
    distribution_hint,
    names_in_environment,
)
from fourm_plugins.errors import first_line, one_line
from fourm_plugins.hookspecs import hookimpl
from fourm_plugins.suggest import nearest

if TYPE_CHECKING:
    from fourm_plugins.distributions import Leftover
    from fourm_plugins.masker import Masker
    from fourm_plugins.modality import Modality
    from fourm_plugins.source import SampleSource
    from fourm_plugins.tokenizer import Tokenizer

__all__ = ["API_VERSION", "Kind", "Plugin", "PluginError", "PluginManager", "State", "distribution_hint"]
log = logging.getLogger(__name__)
#: Kinds that determine the vocabulary and the model.
_VOCABULARY = ("modality", "tokenizer", "masker")
#: The order in which to report the claims to a name if none is usable.
_TELLING: tuple[State, ...] = ("conflict", "broken", "incompatible", "disabled")


class PluginManager:
    """`disabled` names plugins that are never imported, in addition to those of the environment variable
    `FOURM_DISABLE`, separated by commas. `providers` resolves names that two distributions claim: {name:
    distribution}."""

    def __init__(self, *, disabled: Iterable[str] = (), providers: Mapping[str, str] | None = None) -> None:
        #: Metadata folders of plugins that do not count.
        self.leftovers: tuple[Leftover, ...]
        installed, self.leftovers = discover_all()
        self.plugins = tuple(decide(installed, set(disabled) | names_in_environment(), dict(providers or {})))
        self._active: dict[tuple[Kind, str], Plugin] = {}
        self._hooks = pluggy.PluginManager("fourm")
        self._hooks.add_hookspecs(hookspecs)
        self._packages: dict[str, str] = {}  # pluggy's name -> "name of distribution version"
        self._frozen = False
        self._changed: list[str] | None = None

    def __repr__(self) -> str:
        kinds = Counter(plugin.kind for plugin in self.plugins if plugin.state == "ok")
        rest = [f"{plugin.name} ({plugin.state})" for plugin in self.plugins if plugin.state != "ok"]
        usable = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        return f"<PluginManager: usable: {usable or 'none'}; not usable: {', '.join(rest) or 'none'}>"

    def find(self, kind: Kind, name: str) -> Plugin:
        """The plugin that provides `name`. Raises PluginError, with the nearest name and what to install."""
        claims = [p for p in self.plugins if (p.kind, p.name) == (kind, name)]
        if usable := [p for p in claims if p.state == "ok"]:
            return usable[0]
        if not claims:
            names = sorted({p.name for p in self.plugins if p.kind == kind})
            near = nearest(name, names)
            hint = f"did you mean {near!r}? installed: {', '.join(names)}"
            if not near:
                hint = f"installed: {', '.join(names) or 'none'}. Install the package that provides it, for example: "
                hint += f"pip install {distribution_hint(name)}"
            raise PluginError(f"no installed plugin provides the {kind} {name!r}; {hint}")
        plugin = min(claims, key=lambda p: _TELLING.index(p.state))
        origin = f"{plugin.distribution} {plugin.version}"
        raise PluginError(f"{kind} {name!r} ({origin}) is {plugin.state}: {plugin.reason}; {plugin.remedy}")

    def modality_class(self, name: str) -> type[Modality[Any]]:
        return cast("type[Modality[Any]]", self._provided("modality", name))

    def tokenizer_class(self, kind: str) -> type[Tokenizer]:
        return cast("type[Tokenizer]", self._provided("tokenizer", kind))

    def masker_class(self, kind: str) -> type[Masker]:
        return cast("type[Masker]", self._provided("masker", kind))

    def optimiser(self, name: str) -> Callable[..., Any]:
        """See `fourm_plugins.hookspecs.fourm_optimiser`; likewise for the others."""
        return cast("Callable[..., Any]", self._provided("optimiser", name))

    def schedule(self, name: str) -> Callable[..., float]:
        return cast("Callable[..., float]", self._provided("schedule", name))

    def order(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", self._provided("order", name))

    def head(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", self._provided("head", name))

    def source(self, name: str) -> Callable[..., SampleSource]:
        return cast("Callable[..., SampleSource]", self._provided("source", name))

    def command(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", self._provided("command", name))

    def activate_observers(self, names: Collection[str] | None = None) -> None:
        """Activate the observers called `names`; without names all installed ones, reporting and skipping any that
        cannot be used. Raises PluginError for a name that cannot be used."""
        installed = [p for p in self.plugins if p.kind == "observer" and p.state != "disabled"]
        for name in sorted({p.name for p in installed} if names is None else names):
            try:
                self._activate("observer", name)
            except PluginError as error:
                if names is not None:
                    raise
                log.warning("observer left out: %s", first_line(error))

    def observers(self, hook: str) -> list[tuple[str, Callable[..., Any], tuple[str, ...]]]:
        """(name and package, function, names of its arguments) of every active observer that implements `hook`."""
        implementations = getattr(self._hooks.hook, hook).get_hookimpls()
        return [(self._packages[impl.plugin_name], impl.function, impl.argnames) for impl in implementations]

    def modality(self, name: str, /, *, plugin: str | None = None, **settings: Any) -> Modality[Any]:
        """An instance, called `name` (by default that of the entry point), of the modality class that the entry point
        `plugin` provides."""
        from pydantic import ValidationError

        from fourm_plugins.activation import run
        from fourm_plugins.contract import check_instance
        from fourm_plugins.explain import explain

        def make() -> Modality[Any]:
            return check_instance(origin, cls(name, **settings), name)

        cls = self.modality_class(plugin or name)
        origin = self.find("modality", plugin or name)
        try:
            return run(origin, "made with its settings", make, changed=self._changed)
        except PluginError:
            raise
        except ValueError as error:
            reason = "; ".join(explain(error, cls.Settings)) if isinstance(error, ValidationError) else one_line(error)
            known = ", ".join(sorted(cls.Settings.model_fields))
            raise PluginError(f"modality {name!r} refuses its settings: {reason}; it knows: {known}") from error

    @property
    def active(self) -> Mapping[tuple[Kind, str], Plugin]:
        """(kind, name) -> plugin of everything activated so far, sorted."""
        return MappingProxyType(dict(sorted(self._active.items())))

    def tell_changes(self, changed: list[str]) -> None:
        """From now on, append what plugins change in the process, and what is restored, to `changed` instead of logging
        it."""
        self._changed = changed

    def freeze(self) -> None:
        """From now on no modality, tokenizer or masker may be activated: the model is built from the active ones."""
        self._frozen = True

    def _provided(self, kind: Kind, name: str) -> Any:
        self._activate(kind, name)
        hook = getattr(self._hooks.hook, f"fourm_{kind}")
        return hook(**{hook.spec.argnames[0]: name})

    def _activate(self, kind: Kind, name: str) -> None:
        if (kind, name) in self._active:
            return
        plugin = self.find(kind, name)
        if self._frozen and kind in _VOCABULARY:
            raise PluginError(f"{kind} {name!r} is not active, and the registry is frozen; activate it before building")
        from fourm_plugins.activation import activate

        provided = activate(plugin, changed=self._changed)
        registered = provided if kind == "observer" else _Answer(kind, name, provided)
        registration = f"{plugin.distribution}:{kind}:{name}"
        self._packages[registration] = f"{name!r} of {plugin.distribution} {plugin.version}"
        self._hooks.register(registered, name=registration)
        self._active[kind, name] = plugin


class _Answer:
    """The object registered with pluggy for a plugin: it answers one hook for one name."""

    def __init__(self, kind: Kind, name: str, provided: Any) -> None:
        def by_name(name: str, known: str = name) -> Any:
            return provided if name == known else None

        def by_kind(kind: str, known: str = name) -> Any:
            return provided if kind == known else None

        setattr(self, f"fourm_{kind}", hookimpl(by_kind if kind in ("tokenizer", "masker") else by_name))

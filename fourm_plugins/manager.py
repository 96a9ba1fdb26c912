"""The plugin host: knows every installed plugin and its state, and activates those that are asked for.

Finding (`discovery`) and deciding (`choice`) read metadata only and import nothing of any plugin. The group's name is
the API version (`fourm.modalities.v1`), so that a plugin for another API is known before it is imported. Activation
(`activation`) is transactional.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fourm_plugins.choice import decide, names_in_environment
from fourm_plugins.discovery import (
    API_VERSION,
    Kind,
    Plugin,
    PluginError,
    State,
    discover_all,
    distribution_hint,
    one_line,
)

if TYPE_CHECKING:
    from fourm_plugins.masker import Masker
    from fourm_plugins.metadata import Leftover
    from fourm_plugins.modality import Modality
    from fourm_plugins.tokenizer import Tokenizer

__all__ = ["API_VERSION", "Kind", "Plugin", "PluginError", "PluginManager", "State", "distribution_hint"]
#: Of several claims to a name, none of them usable, the one to tell of.
_TELLING: tuple[State, ...] = ("conflict", "broken", "incompatible", "disabled")


class PluginManager:
    """`disabled` names modalities, tokenizers or maskers that are never imported, beside those that the environment
    variable `FOURM_DISABLE` names, separated by commas. `providers` settles a name that two distributions claim:
    {name: distribution}."""

    def __init__(self, *, disabled: Iterable[str] = (), providers: Mapping[str, str] | None = None) -> None:
        #: Folders of metadata of ours that do not count.
        self.leftovers: tuple[Leftover, ...]
        found, self.leftovers = discover_all()
        self.plugins = tuple(decide(found, set(disabled) | names_in_environment(), dict(providers or {})))
        self._active: dict[tuple[Kind, str], tuple[Plugin, Any]] = {}
        self._frozen = False
        self._changed: list[str] | None = None

    def find(self, kind: Kind, name: str) -> Plugin:
        """The plugin that provides `name`. Raises PluginError, with the nearest name and what to install."""
        claims = [p for p in self.plugins if (p.kind, p.name) == (kind, name)]
        if usable := [p for p in claims if p.state == "ok"]:
            return usable[0]
        if not claims:
            names = sorted({p.name for p in self.plugins if p.kind == kind})
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PluginError(
                f"no installed plugin provides the {kind} {name!r}; {hint}installed: {', '.join(names) or 'none'}. "
                f"Install the package that provides it, for example: pip install {distribution_hint(name)}"
            )
        plugin = min(claims, key=lambda p: _TELLING.index(p.state))
        origin = f"{plugin.distribution} {plugin.version}"
        raise PluginError(f"{kind} {name!r} ({origin}) is {plugin.state}: {plugin.reason}; {plugin.remedy}")

    def modality_class(self, name: str) -> type[Modality]:
        return self._activate("modality", name)

    def tokenizer_class(self, kind: str) -> type[Tokenizer]:
        return self._activate("tokenizer", kind)

    def masker_class(self, kind: str) -> type[Masker]:
        return self._activate("masker", kind)

    def modality(self, name: str, /, *, plugin: str | None = None, **settings: Any) -> Modality:
        """An instance called `name` of the modality class that entry point `plugin` (by default `name`) provides."""
        from pydantic import ValidationError

        from fourm_plugins.explain import explain

        from fourm_plugins.activation import run

        cls = self.modality_class(plugin or name)
        origin = self.find("modality", plugin or name)
        try:
            return run(origin, "made with its settings", lambda: cls(name, **settings), changed=self._changed)
        except PluginError:
            raise
        except ValueError as error:
            reason = "; ".join(explain(error, cls.Settings)) if isinstance(error, ValidationError) else one_line(error)
            known = ", ".join(sorted(cls.Settings.model_fields))
            raise PluginError(f"modality {name!r} refuses its settings: {reason}; it knows: {known}") from error

    @property
    def active(self) -> Mapping[tuple[Kind, str], Plugin]:
        """(kind, name) -> plugin of all that was activated so far, sorted."""
        return MappingProxyType({key: plugin for key, (plugin, _) in sorted(self._active.items())})

    def tell_changes(self, changed: list[str]) -> None:
        """From here on what plugins change of the process, which is put back, is added to `changed`, not logged."""
        self._changed = changed

    def freeze(self) -> None:
        """From here on nothing more may be activated: the vocabulary and the model are built from what is active."""
        self._frozen = True

    def _activate(self, kind: Kind, name: str) -> Any:
        if (kind, name) not in self._active:
            plugin = self.find(kind, name)
            if self._frozen:
                raise PluginError(
                    f"{kind} {name!r} was asked for after the registry was frozen; activate it before the model is "
                    f"built"
                )
            from fourm_plugins.activation import activate

            self._active[kind, name] = plugin, activate(plugin, changed=self._changed)
        return self._active[kind, name][1]

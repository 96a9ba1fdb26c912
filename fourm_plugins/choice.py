"""What the user decides about installed plugins: which are disabled, and who provides a name that two claim.

In: plugins as discovery found them, the names to disable, the providers. Out: the same plugins with their final
states. Neither the order of sys.path nor of anything else changes the outcome.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace

from fourm_plugins.discovery import Plugin, PluginError
from fourm_plugins.distributions import canonical
from fourm_plugins.suggest import did_you_mean

#: Environment variable: names, separated by commas, that are never imported. `--no-plugin` adds to it.
DISABLE = "FOURM_DISABLE"


def names_in_environment() -> set[str]:
    return {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}


def decide(plugins: list[Plugin], disabled: Collection[str], providers: Mapping[str, str]) -> list[Plugin]:
    """Raises PluginError for a name that nothing installed has, and for a provider that does not provide it."""
    names = {plugin.name for plugin in plugins}
    for name in sorted(disabled):
        if name not in names:
            where = f"--no-plugin, {DISABLE} or modalities.disable"
            raise PluginError(f"no installed plugin is called {name!r} ({where}); {did_you_mean(name, names)}")
    for name, distribution in sorted(providers.items()):
        if name not in names:
            raise PluginError(f"providers: no installed plugin is called {name!r}; {did_you_mean(name, names)}")
        claims = [p.distribution for p in plugins if p.name == name]
        if canonical(distribution) not in map(canonical, claims):
            raise PluginError(f"providers: {distribution!r} does not provide {name!r}; {' and '.join(claims)} do")
    return [_decide(plugin, plugins, disabled, providers) for plugin in plugins]


def _decide(plugin: Plugin, plugins: list[Plugin], disabled: Collection[str], providers: Mapping[str, str]) -> Plugin:
    claims = [p for p in plugins if (p.kind, p.name) == (plugin.kind, plugin.name)]
    rivals = [p.distribution for p in claims if p.state == "ok"]
    chosen = providers.get(plugin.name)
    if plugin.name in disabled:
        return replace(plugin, state="disabled", reason="disabled by the user", remedy="enable it again")
    if chosen is not None and canonical(plugin.distribution) != canonical(chosen):
        return replace(plugin, state="disabled", reason=f"{chosen} was chosen", remedy="change `providers`")
    if plugin.state != "ok":
        return plugin
    same = [p.distribution for p in claims if p.module == plugin.module]
    if len(same) > 1:
        # Choosing one would not choose: Python imports whichever lies first on its path.
        reason = f"{' and '.join(same)} both bring the module {plugin.module!r}, of which Python sees one"
        return replace(plugin, state="conflict", reason=reason, remedy=f"pip uninstall {same[1]} (or {same[0]})")
    if chosen is None and len(rivals) > 1:
        reason = f"claimed by {' and '.join(rivals)}"
        remedy = f"choose one in the config, `providers: {{{plugin.name}: {rivals[0]}}}`, or pip uninstall the other"
        return replace(plugin, state="conflict", reason=reason, remedy=remedy)
    return plugin

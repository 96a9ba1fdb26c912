"""All checks of `fourm plugins doctor`, in order, for the selected plugins.

In: the plugin host, a config or none, names of plugins or none. Out: `Check`s, yielded as they complete.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from fourm_engine.installed import doctor, hardware
from fourm_engine.installed.doctor import Check
from fourm_plugins.discovery import ENGINE
from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.suggest import did_you_mean

if TYPE_CHECKING:
    from fourm_engine.recipes.config import RunConfig


def examine(
    manager: PluginManager,
    config: RunConfig | None,
    names: Sequence[str],
    *,
    models: Sequence[str] = (),
    timeout: float = 60.0,
) -> Iterator[Check]:
    """Run the checks for the plugins `names`; by default for those that `config` selects, or all that are not
    disabled."""
    selected = _selected(manager, config, names)
    yield from doctor.check_python()
    involved = [p.distribution for p in manager.plugins if (p.kind, p.name) in selected and p.state == "ok"]
    yield from doctor.check_requirements([ENGINE, *involved])
    bad = 0
    for check in doctor.check_plugins(manager.plugins, selected, timeout=timeout):
        bad += check.state == "bad"
        yield check
    yield from doctor.check_leftovers(manager.leftovers)
    yield from hardware.check_torch(wants_gpu=config is not None and config.train.device == "cuda")
    yield from hardware.check_processes()
    if config is not None and bad:
        # The following checks activate plugins in this process, where a hanging one would block.
        yield Check("modalities", "note", "not looked at, since a plugin that takes part is bad")
    elif config is not None:
        from fourm_engine.installed.assets import check_assets

        with redirect_stdout(sys.stderr):  # plugins' output is not part of the result
            checks = list(check_assets(config, manager))
        yield from checks
    for model in models:
        yield from doctor.check_model(model)
    yield from doctor.check_writable(_folders(config))


def _selected(manager: PluginManager, config: RunConfig | None, names: Sequence[str]) -> set[tuple[str, str]]:
    known = {p.name for p in manager.plugins}
    if unknown := [name for name in names if name not in known]:
        raise PluginError(f"no installed plugin is called {unknown[0]!r}; {did_you_mean(unknown[0], known)}")
    if not names and config is not None and config.modalities.select != "installed":
        settings = config.modalities.settings
        chosen = {settings.get(name, {}).get("plugin", name) for name in config.modalities.select}
        if absent := sorted(chosen - known):
            manager.find("modality", absent[0])  # raises, saying what to install
        named = [] if config.observers == "installed" else config.observers
        used = {("optimiser", config.train.optimiser), ("schedule", config.train.schedule)}
        return {("modality", name) for name in chosen} | used | {("observer", name) for name in named}
    chosen = set(names) or {p.name for p in manager.plugins if p.state != "disabled"}
    return {(p.kind, p.name) for p in manager.plugins if p.name in chosen}


def _folders(config: RunConfig | None) -> dict[str, Path]:
    """The folders to which a run writes."""
    import tempfile

    from huggingface_hub.constants import HF_HUB_CACHE

    folders = {"temporary files": Path(tempfile.gettempdir()), "the model cache": Path(HF_HUB_CACHE)}
    if config is not None:
        folders |= {"the run": config.run, "tokenizers": config.tokenizers.folder}
        if isinstance(config.data.tokens, Path):  # a remote one is only read
            folders["tokens"] = config.data.tokens
        for index, one in enumerate(config.data.sets):
            if isinstance(one.tokens, Path):
                folders[f"tokens of data.train.{index}"] = one.tokens
    return folders

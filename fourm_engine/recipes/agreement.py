"""Check that the processes of a command have the same config and plugins, before any of them acts on a difference."""

from __future__ import annotations

from fourm_engine.modalities import Modalities, identity
from fourm_engine.recipes.config import StoredConfig
from fourm_engine.train.distributed import PACKAGES, SETTINGS, check_same
from fourm_plugins.manager import PluginManager


def check_agreement(config: StoredConfig, modalities: Modalities, manager: PluginManager) -> None:
    """Raise RankMismatch, naming the rank and what differs, if processes have other settings or plugins. Call it as the
    first collective: what differs may decide which others follow."""
    check_same(config.shared(), SETTINGS)
    check_same(identity(modalities, manager), PACKAGES)

"""Two distributions that claim one name: named both, settled by `providers` alone, the same everywhere."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourm_plugins.manager import PluginError, PluginManager
from tests.sdk.sites import GOOD, entry, put

ROOT = str(Path(__file__).parents[2])
PROGRAM = """
import json, sys
from fourm_plugins.manager import PluginError, PluginManager
plugins = [[p.name, p.distribution, p.state, p.reason, p.remedy] for p in PluginManager().plugins]
try:
    PluginManager().modality("thermal")
    plugins.append("activated")
except PluginError as error:
    plugins.append(str(error))
for name in sys.argv[1:]:
    manager = PluginManager(providers={"thermal": name})
    plugins.append([manager.modality("thermal").settings.codes, manager.find("modality", "thermal").distribution])
print(json.dumps(plugins))
"""


def test_the_outcome_is_the_same_whatever_the_order_of_the_path_and_the_hash_seed(tmp_path):
    """Three folders on the path in every order, each under another hash seed; the conflict, and both choices."""
    folders = [tmp_path / name for name in ("one", "two", "three")]
    put(folders[0], "acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    put(folders[1], "other-thermal", entry("thermal", "other_thermal:Thermal"), source=GOOD.replace("= 64", "= 32"))
    put(folders[2], "acme-radar", entry("radar", "acme_radar:Thermal"))
    outputs = []
    for seed, order in enumerate(itertools.permutations(folders)):
        path = os.pathsep.join([*map(str, order), ROOT])
        command = [sys.executable, "-c", PROGRAM, "acme-thermal", "other-thermal"]
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(seed)}
        outputs.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(set(outputs)) == 1
    *_, conflict, acme, other = json.loads(outputs[0])
    assert (
        "is conflict: claimed by acme-thermal and other-thermal; choose one in the config, `providers: {the" in conflict
    )
    assert (acme, other) == ([64, "acme-thermal"], [32, "other-thermal"])


def test_two_that_bring_the_same_module_cannot_be_settled_by_a_choice(install, tmp_path):
    """A fork under another name: Python would import whichever lies first on its path, whatever is chosen."""
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    put(tmp_path, "acme-thermal-nightly", entry("thermal", "acme_thermal:Thermal"), source="")
    for providers in ({}, {"thermal": "acme-thermal"}):
        with pytest.raises(PluginError, match=r"both bring the module 'acme_thermal'.*pip uninstall"):
            PluginManager(providers=providers).modality("thermal")


def test_a_broken_rival_is_none(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    install("other-thermal", entry("thermal", "other_thermal:Thermal"), source="")
    assert PluginManager().find("modality", "thermal").distribution == "acme-thermal"


def test_a_provider_for_a_name_that_is_not_there_names_the_nearest(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    with pytest.raises(PluginError, match=r"providers: .*'termal'; did you mean 'thermal'\?"):
        PluginManager(providers={"termal": "acme-thermal"})

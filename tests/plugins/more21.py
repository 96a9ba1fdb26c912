"""The package of 4M-21's further modalities, installed for a test where it is not."""

from __future__ import annotations

from pathlib import Path

from fourm_plugins.manager import PluginManager

ROOT = Path(__file__).parents[2] / "plugins/more21"


def installed(monkeypatch, install):
    if any(p.distribution == "fourm-more21" for p in PluginManager().plugins):
        return
    monkeypatch.syspath_prepend(str(ROOT))
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text.partition('[project.entry-points."fourm.modalities.v1"]')[2].partition("\n[")[0]
    entries = "[fourm.modalities.v1]\n" + section.replace('"', "").strip() + "\n"
    install("fourm-more21", entries, source="", version="0.1.0")

"""An environment with plugins of every state, and the command in this process."""

from __future__ import annotations

import pytest

from fourm_engine.cli.app import app
from tests.sdk.sites import entry


@pytest.fixture
def fourm(capfd, monkeypatch):
    """fourm(*arguments) -> (exit code, standard output), in this process."""
    monkeypatch.setenv("FOURM_DISABLE", "")  # and so restored, whatever --no-plugin makes of it

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = app(list(arguments), standalone_mode=False)
        return code or 0, capfd.readouterr().out

    return run


@pytest.fixture
def states(install):
    """One plugin in each state, but for disabled."""
    install("acme-ok", entry("okay", "acme_ok:Thermal"))
    install("acme-broken", entry("shattered", "acme_broken:Thermal"), source="")
    install("acme-old", entry("aged", "acme_old:Thermal", "fourm.modalities.v9"))
    install("acme-one", entry("contested", "acme_one:Thermal"))
    install("acme-two", entry("contested", "acme_two:Thermal"))
    install("acme-late", entry("belated", "acme_late:Thermal"), source="print('hello')\n1 / 0")


@pytest.fixture
def without_hardware(monkeypatch):
    """Leaves out what another test does, since starting processes takes seconds."""
    from fourm_engine.installed import hardware

    monkeypatch.setattr(hardware, "check_processes", lambda: iter(()))

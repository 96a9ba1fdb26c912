"""Runs over the fake modalities."""

import pytest

from fourm_engine.tokenizers import store
from tests.pretrain.fourm_run import Host


@pytest.fixture(autouse=True)
def host(monkeypatch):
    monkeypatch.setattr(store, "PluginManager", Host)

"""A model over the toys, for tests of what a user does with one."""

from __future__ import annotations

import pytest

from fourm_engine.model import FourM
from tests.generate.toys import PLUGINS, install, make_model


@pytest.fixture
def toys(tmp_path, monkeypatch) -> FourM:
    install(tmp_path / "site", list(PLUGINS))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return make_model()

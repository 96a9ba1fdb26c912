"""A model over the toys, for tests of what a user does with one."""

from __future__ import annotations

import pytest

from fourm_engine.model import FourM
from tests.generate.toys import install_all, make_model


@pytest.fixture
def model(tmp_path, monkeypatch) -> FourM:
    install_all(tmp_path / "site", monkeypatch)
    return make_model()


@pytest.fixture
def toys(model) -> FourM:
    return model

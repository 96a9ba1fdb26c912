"""A model over the toys, for tests of what a user does with one."""

from __future__ import annotations

import pytest

from fourm_engine.model import FourM


@pytest.fixture
def toys(model) -> FourM:
    return model

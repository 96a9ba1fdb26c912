"""The model and the held-out data of the tests of evaluation, and a folder to work in."""

import pytest

from tests.evaluate.conftest import data, model

__all__ = ["data", "model"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path

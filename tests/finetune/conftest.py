"""The run that the tests of this folder start from."""

from __future__ import annotations

import pytest

from tests.finetune.based import prepare


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    prepare(folder)
    return folder

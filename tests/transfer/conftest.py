"""A small model and data of each task, made once."""

import pytest

from tests.transfer import heads


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return heads.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return heads.folders(tmp_path_factory.mktemp("folders"))


@pytest.fixture(scope="session")
def ade(tmp_path_factory):
    return heads.ade20k(tmp_path_factory.mktemp("ade"))


@pytest.fixture(scope="session")
def nyu(tmp_path_factory):
    return heads.nyuv2(tmp_path_factory.mktemp("nyu"))

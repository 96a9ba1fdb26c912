"""For all tests: hypothesis without deadlines, since the machines that run them are shared; no plugins of others than
this repository; `install`, a fake installed distribution on the path; `model`, a model over the toys, which are
installed in `site`."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import re
import signal
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.sdk.sites import put

# Equal bits on every machine, and no measuring. Before torch is imported; programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Set by pytest-xdist to the width of its terminal: what commands print is that of a pipe.
os.environ.pop("COLUMNS", None)

# A shell that runs the tests in the background has them ignore Ctrl-C, and with them the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def hide_other_plugins() -> None:
    """Leave plugins out that are installed beside those of this repository, such as its examples: tests list all that
    there are, and make up others of the same names. Programs that tests start still find them."""
    root, every = Path(__file__).parents[1], importlib.metadata.distributions
    projects = [root / "pyproject.toml", *root.glob("plugins/*/pyproject.toml")]
    here = {re.search(r'^name = "(.+)"$', path.read_text(), re.MULTILINE)[1] for path in projects}

    def key(distribution: Distribution) -> tuple[str, str]:
        return distribution.name, str(distribution.locate_file(""))

    plugins = (d for d in every() if any(e.group.startswith("fourm.") for e in d.entry_points))
    others = {key(d) for d in plugins if d.name not in here}

    def distributions(**context: Any) -> Iterator[Distribution]:
        return (d for d in every(**context) if not others or key(d) not in others)

    importlib.metadata.distributions = distributions


hide_other_plugins()

# Thousands of tests are collected, none of which is ever garbage: they are left out of each look for it, as at the
# start of every training, where it takes half a second.
gc.disable()

hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def pytest_collection_modifyitems(items):
    """Slow tests take minutes on an idle machine and, beside others, longer than the limit of all other tests."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path in which the toys are installed."""
    from tests.generate.toys import install_all

    install_all(tmp_path / "site", monkeypatch)
    return tmp_path / "site"


@pytest.fixture
def model(site):
    """A `FourM` over the toys, with random weights."""
    from tests.generate.toys import make_model

    return make_model()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(distribution, entry_points, source=…) as `tests.sdk.sites.put`, below tmp_path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def install(distribution: str, entry_points: str, **options) -> None:
        put(tmp_path, distribution, entry_points, **options)
        modules.append(options.get("module") or distribution.replace("-", "_"))
        sys.modules.pop(modules[-1], None)

    yield install
    for name in list(sys.modules):
        if name.partition(".")[0] in modules:
            del sys.modules[name]

"""The conformance kit on the example packages and on what `fourm plugins new` writes, by their own test files."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fourm_engine.cli.new_plugin import Layout, write_package
from fourm_plugins.testing import MaskerConformance, ModalityConformance, TokenizerConformance
from fourm_plugins.testing import masker as masker_checks
from fourm_plugins.testing.suite import run_checks
from tests.installing import install

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/plugins"
KITS = (ModalityConformance, TokenizerConformance, MaskerConformance)
#: Examples whose tests are run by pytest, the others' in this process, which spares each a start of torch.
BY_PYTEST = ("weather", "lion", "journal")


@pytest.fixture
def outcomes(tmp_path, monkeypatch):
    """package -> (name of its test class, outcome of each check). The package is installed, its test file imported."""
    before = set(sys.modules)

    def run(package: Path):
        site = tmp_path / "site"
        site.mkdir()
        monkeypatch.syspath_prepend(str(install(site, package)))
        (path,) = package.glob("test_*.py")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        (kit,) = (c for c in vars(module).values() if isinstance(c, type) and issubclass(c, KITS) and c not in KITS)
        subject = kit.make_subject()
        if not issubclass(kit, MaskerConformance):
            monkeypatch.setattr(masker_checks, "DRAWS", 100)  # the masker is the engine's
        try:
            return kit.__name__, list(run_checks(subject, kit.checks, kit.expected_failures))
        finally:
            subject.close()

    yield run
    for name in set(sys.modules) - before:
        if name.startswith(("acme_", "fourm_made_", "fourm_thermal")):
            del sys.modules[name]


def passed(outcomes) -> int:
    """How many checks passed; fails where one failed, or could not be run, which says nothing."""
    states = Counter(outcome.state for outcome in outcomes)
    bad = [o for o in outcomes if o.state not in ("passed", "not claimed", "expected failure")]
    assert not bad
    return states["passed"]


@pytest.mark.parametrize("layout", Layout)
def test_what_new_writes_passes_the_kit_unchanged(outcomes, tmp_path, layout):
    name, checks = outcomes(write_package(f"made-{layout.value}", layout.value, tmp_path))
    assert name == f"TestMade{layout.value.capitalize()}"
    assert passed(checks) > 30


def test_what_the_page_makes_of_it_passes_the_kit(outcomes, tmp_path):
    package = write_package("thermal", "grid", tmp_path)
    page = (ROOT / "docs/plugins.md").read_text()
    (package / "fourm_thermal.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    assert passed(outcomes(package)[1]) > 30


@pytest.mark.parametrize(("example", "least"), [("thermal", 31), ("spectrogram", 30), ("blocks", 8), ("kmeans", 8)])
def test_the_example_passes_its_own_kit(outcomes, example, least):
    checks = outcomes(EXAMPLES / example)[1]
    assert passed(checks) >= least
    expected = [outcome.name for outcome in checks if outcome.state == "expected failure"]
    assert expected == (["value_survives_its_array"] if example == "spectrogram" else [])


def test_pytest_runs_the_examples_tests_and_their_kit(tmp_path):
    assert {path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")} == {
        *BY_PYTEST, "thermal", "spectrogram", "blocks", "kmeans"
    }  # fmt: skip
    site = tmp_path / "site"
    site.mkdir()
    packages = [EXAMPLES / name for name in BY_PYTEST]
    install(site, *packages)
    done = subprocess.run(  # `addopts` of this project are not theirs
        [sys.executable, "-m", "pytest", "-rA", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist",
         *(str(path) for package in packages for path in package.glob("test_*.py"))],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "not run" not in done.stdout
    assert len(re.findall(r"^PASSED .*::TestWeather::", done.stdout, re.MULTILINE)) >= 30
    assert len(re.findall(r"^PASSED .*test_acme_(lion|journal)", done.stdout, re.MULTILINE)) >= 6

"""The conformance kit on the example packages and on what `fourm plugins new` writes, run as their own CI does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from fourm_engine.cli.new import Layout, write_package
from tests.installing import install

ROOT = Path(__file__).parents[2]
EXAMPLES = [path.parent for path in sorted((ROOT / "examples/plugins").glob("*/pyproject.toml"))]


def run_kits(tmp_path: Path, packages: list[Path]) -> str:
    """What pytest prints of the tests of `packages`, which are installed; fails where one of them does."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, *packages)
    # Each package by its own test file; `addopts` of this project are not theirs.
    files = [str(path) for package in packages for path in sorted(package.glob("test_*.py"))]
    assert len(files) == len(packages)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist", *files],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "not run" not in done.stdout  # a check that could not be run says nothing
    return done.stdout


def passed(report: str, name: str) -> int:
    return len(re.findall(rf"^PASSED .*::{name}::", report, re.MULTILINE))


def test_what_new_writes_and_what_the_page_makes_of_it_pass_the_kit_unchanged(tmp_path):
    packages = [write_package(f"made-{layout.value}", layout.value, tmp_path) for layout in Layout]
    packages.append(write_package("thermal", "grid", tmp_path))
    page = (ROOT / "docs/plugins.md").read_text()
    (packages[-1] / "fourm_thermal.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    report = run_kits(tmp_path, packages)
    for name in (*(f"Made{layout.value.capitalize()}" for layout in Layout), "Thermal"):
        assert passed(report, f"Test{name}") > 30


def test_the_example_packages_pass_their_own_tests(tmp_path):
    report = run_kits(tmp_path, EXAMPLES)
    for name, least in {"Thermal": 30, "Spectrogram": 30, "Weather": 30, "Blocks": 8, "KMeans": 8}.items():
        assert passed(report, f"Test{name}") >= least, name
    assert re.findall(r"^XFAIL \S+::test_(\w+)", report, re.MULTILINE) == ["value_survives_its_array"]

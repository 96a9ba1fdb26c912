"""The documentation's own example works as written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import View
from fourm_plugins.manager import PluginManager

ROOT = Path(__file__).parent.parent


@pytest.fixture
def thermal(tmp_path, monkeypatch):
    """The example of docs/plugins.md, installed from the page's own text."""
    page = (ROOT / "docs/plugins.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    entry_points = re.search(r'\[project\.entry-points\."(.+?)"\]\n(\w+) = "(.+?)"', page)
    (tmp_path / "acme_thermal.py").write_text(code)
    info = tmp_path / "acme_thermal-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-thermal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[{}]\n{} = {}\n".format(*entry_points.groups()))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("acme_thermal", None)  # of another test's fake distribution
    yield PluginManager().modality("thermal", image_size=32, patch_size=8, codebook_size=16)
    sys.modules.pop("acme_thermal", None)


def test_the_example_plugin_reads_crops_normalises_and_writes_back(thermal):
    for files in thermal.example_samples(3, seed=0):
        value = thermal.read(files)
        assert thermal.read(thermal.write(value)) == pytest.approx(value)
        seen = thermal.augment(value, View.centre(source_aspect=thermal.aspect(value)))
        array = thermal.normalise(seen)
        assert (array.shape, array.dtype) == ((1, 32, 32), np.float32)
        assert thermal.denormalise(array) == pytest.approx(seen, abs=1e-3)
        assert thermal.metrics()[0].compute([seen], [seen]) == 0
        assert thermal.render(seen).size == (32, 32)
        assert {v.shape for v in thermal.constants([seen, seen]).values()} == {(32, 32)}


def test_the_example_plugin_gets_rows_of_the_vocabulary(thermal):
    assert Vocabulary.build([thermal.spec])["thermal"].size == 16


def test_every_file_that_the_pages_name_exists():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for name in re.findall(
            r"`((?:fourm_\w+|examples|plugins|tests|docs|benchmarks)/[\w./-]*\.(?:py|yaml|md))`", page.read_text()
        ):
            assert (ROOT / name).exists(), f"{page.name} names {name}"

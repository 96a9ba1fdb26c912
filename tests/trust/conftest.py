"""Every test here watches: nothing is unpickled, started, or imported that a file named."""

from __future__ import annotations

import sys

import pytest

from tests.trust.watch import watched


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """Fails the test in which anything of it happens. `canary` can be imported, and leaves a mark when it is."""
    (tmp_path / "canary.py").write_text("import os\nos.system('touch owned')\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with watched() as seen:
        yield
    assert not seen
    assert "canary" not in sys.modules
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path.parent / "owned").exists()

"""`fourm plugins new`: names, what is never overwritten, and that what is written is clean."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fourm_engine.cli.new_plugin import Layout, write_package
from fourm_plugins.manager import PluginManager
from tests.installing import install
from tests.running import fourm

LAYOUTS = [layout.value for layout in Layout]
LONGEST = "a" + "_bc" * 13


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["x", "infra-red_2", LONGEST])
def test_a_new_package_has_five_files_and_no_fault_that_ruff_knows(tmp_path, layout, name):
    folder = write_package(name, layout, tmp_path)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert folder.name == f"fourm-{name.replace('_', '-')}"
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *command, "--no-cache", str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not [path for path in files if "$" in path.read_text().replace("${{ matrix.python }}", "")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_new_modality_is_found_made_and_its_examples_are_read(tmp_path, monkeypatch, layout):
    name = f"made-{layout}"
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(install(site, write_package(name, layout, tmp_path))))
    manager = PluginManager()
    modality = manager.modality(f"made_{layout}")
    del sys.modules[f"fourm_made_{layout}"]  # later tests must not take it for installed
    plugin = manager.find("modality", f"made_{layout}")
    assert (plugin.state, plugin.distribution) == ("ok", f"fourm-made-{layout}")
    assert modality.spec.layout.kind == layout
    assert modality.spec.source == f"made_{layout}"
    assert [modality.read(files) for files in modality.example_samples(2, 0)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "cannot be a modality's name"),
        ("Thermal", "cannot be a modality's name"),
        ("2d", "cannot be a modality's name"),
        ("a__b", "cannot be a modality's name"),
        ("a-", "cannot be a modality's name"),
        ("rgb@448", "cannot be a modality's name"),
        ("../x", "cannot be a modality's name"),
        ("x" * 41, "cannot be a modality's name"),
        ("none", "a word of Python"),
        ("engine", "fourm_engine is installed already"),  # would hide the engine
        ("plugins", "fourm_plugins is installed already"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_and_nothing_is_written(tmp_path, name, reason):
    with pytest.raises(ValueError, match=reason):
        write_package(name, "grid", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_modality_that_another_distribution_provides_is_not_made_again(tmp_path, monkeypatch):
    site, other = tmp_path / "site", write_package("echo", "vector", tmp_path)
    site.mkdir()
    text = (other / "pyproject.toml").read_text()
    text = text.replace("fourm_echo", "acme_echo").replace("fourm-echo", "acme-echo")
    (other / "pyproject.toml").write_text(text)
    (other / "fourm_echo.py").rename(other / "acme_echo.py")
    monkeypatch.syspath_prepend(str(install(site, other)))
    with pytest.raises(ValueError, match="acme-echo provides the modality 'echo' already"):
        write_package("echo", "grid", tmp_path)


def test_nothing_that_exists_is_touched_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "fourm-x"
    folder.mkdir()
    with pytest.raises(ValueError, match="exists already"):
        write_package("x", "grid", tmp_path)
    (tmp_path / "fourm-y").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="exists already"):
        write_package("y", "grid", tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        write_package("z", "grid", tmp_path / "nowhere")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="disk full"):
        write_package("z", "grid", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fourm-x", "fourm-y"]
    assert not list(folder.iterdir())


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path):
    said = fourm("plugins", "new", "my-sensor", "--layout", "vector", "--into", tmp_path)
    assert len(said.splitlines()) == 6
    assert f"cd {tmp_path / 'fourm-my-sensor'}" in said

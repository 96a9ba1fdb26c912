"""What the wheel and the source archive of each package hold: all of its files, its licence, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]
BUILD = """
from setuptools import build_meta
print(build_meta.build_sdist("dist"), build_meta.build_wheel("dist"))
"""


def sources(folder):
    """The files of the packages in a folder."""
    packages = [path.parent for path in folder.glob("*/py.typed")]
    files = (path for package in packages for path in package.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_wheel_and_a_source_archive_hold_the_package_and_its_licence(folder, tmp_path):
    copied = ["pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", *sorted(sources(folder))]
    for name in [name for name in copied if (folder / name).exists()]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, tmp_path / name)
    if (folder / "tests").is_dir():  # setuptools packs files of this name by itself
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests/test_it.py").touch()
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, capture_output=True, text=True, check=True)
    archive, wheel = (tmp_path / "dist" / name for name in done.stdout.split()[-2:])
    with zipfile.ZipFile(wheel) as file:
        packed = set(file.namelist())
        (info,) = {name.partition("/")[0] for name in packed if ".dist-info/" in name}
        facts = message_from_bytes(file.read(f"{info}/METADATA"))
        licence = file.read(f"{info}/licenses/LICENSE")
    assert {name for name in packed if not name.startswith(info)} == sources(folder)
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert (facts["License-Expression"], facts["Requires-Python"]) == ("Apache-2.0", ">=3.10")
    assert facts["Author"]
    assert "Typing :: Typed" in facts.get_all("Classifier")
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert names >= sources(folder) | {"LICENSE", "README.md", "pyproject.toml"}
    assert not [name for name in names if name.startswith(("tests/", "docs/", "build/"))]

"""What the scaffold and docs/plugins.md have people write passes all that they have people run: from built wheels, in
an environment that holds nothing of this checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from fourm_engine.cli.new_plugin import write_package

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/plugins.md").read_text()


def commands(folder: Path, name: str) -> list[str]:
    """What the package's CI, its README and the page say to run, once it is installed."""
    jobs = yaml.safe_load((folder / ".github/workflows/ci.yml").read_text())["jobs"]
    of_ci = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    of_readme = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0].splitlines()
    of_page = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0].replace("thermal", name).splitlines()
    told = [line.partition("#")[0].strip() for line in (*of_ci, *of_readme, *of_page)]
    return [line for line in dict.fromkeys(told) if not line.startswith(("pip install", "fourm plugins new", "cd "))]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Whatever else this interpreter has installed, without our packages."""
    folder = tmp_path_factory.mktemp("others")
    for site in (Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages")):
        for path in site.iterdir():
            ours = path.name.startswith(("fourm", "acme", "__editable__", "~")) or path.suffix == ".pth"
            if not ours and not os.path.lexists(folder / path.name):
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The engine's wheel."""
    folder = tmp_path_factory.mktemp("engine")
    for name in ("fourm_engine", "fourm_plugins"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    return wheel(folder / "source", folder)


def wheel(source: Path, into: Path) -> Path:
    """Built in a copy: a build leaves its own files in the source tree."""
    copy = into / "copy"
    shutil.copytree(source, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--wheel-dir", str(into), str(copy)], check=True)
    (made,) = into.glob("*.whl")
    return made


def environment(folder: Path, others: Path, *wheels: Path) -> dict[str, str]:
    """Variables of a fresh virtual environment with these wheels and the packages of `others`."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{others}\n")
    python = folder / "bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, *map(str, wheels)], check=True)
    (folder / "bin/pytest").write_text(
        f"#!{python}\nimport sys\nfrom pytest import console_main\nsys.exit(console_main())\n"
    )
    (folder / "bin/pytest").chmod(0o755)
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert ruff, "ruff is among the requirements of the tests"
    (folder / "bin/ruff").symlink_to(Path(ruff).absolute())
    assert subprocess.run([ruff, "--version"], check=True, capture_output=True).stdout.startswith(b"ruff")
    dropped = ("PYTHONPATH", "FOURM_DISABLE", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "PATH": f"{folder / 'bin'}{os.pathsep}{kept['PATH']}", "OMP_NUM_THREADS": "1"}


def package(layout: str, into: Path) -> tuple[Path, str]:
    """(folder, modality's name): what `new` writes, or for "page" what docs/plugins.md makes of it."""
    name = "thermal" if layout == "page" else f"made_{layout}"
    folder = write_package(name, "grid" if layout == "page" else layout, into)
    if layout == "page":
        module, test = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:2]
        (folder / "fourm_thermal.py").write_text(module)
        assert (folder / "test_fourm_thermal.py").read_text().endswith(test)
    return folder, name


def run(command: str, folder: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(command, shell=True, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("layout", ["page"])
def test_a_package_is_clean_and_listed_from_its_wheel(tmp_path, others, engine, layout):
    """Without the kit, which takes half a minute; test_plugin_conformance.py runs it from the sources."""
    folder, name = package(layout, tmp_path)
    (tmp_path / "wheel").mkdir()
    variables = environment(tmp_path / "venv", others, engine, wheel(folder, tmp_path / "wheel"))
    told = commands(folder, name)
    assert {"pytest", f"fourm plugins check {name}", "ruff check . && ruff format --check ."} <= set(told)
    quick = [command for command in told if command.startswith(("ruff", "fourm plugins list"))]
    assert len(quick) == 3
    for command in quick:
        run(command, folder, variables)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["page", "grid", "sequence", "vector"])
def test_a_package_passes_all_that_it_is_told_to_run(tmp_path, others, engine, layout):
    """Installed from its wheel, and as a developer has it, with what a build leaves in the source folder."""
    folder, name = package(layout, tmp_path)
    (tmp_path / "wheel").mkdir()
    variables = environment(tmp_path / "venv", others, engine, wheel(folder, tmp_path / "wheel"))
    for command in commands(folder, name):
        assert "cannot run" not in run(command, folder, variables)
    editable = "python -m pip install --quiet --no-deps --no-index --no-build-isolation --disable-pip-version-check"
    run(f"{editable} --force-reinstall -e .", folder, variables)
    assert (folder / f"fourm_{name}.egg-info").is_dir()
    assert " skipped" in (told := run("pytest -rs", folder, variables))  # what it does not claim
    assert not re.search("cannot run|not run", told)

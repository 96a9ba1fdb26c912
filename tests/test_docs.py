"""Commands, code and paths in the documentation work as written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml

from fourm_engine.cli.app import app
from fourm_engine.cli.new_plugin import write_package
from fourm_engine.fit.fitting import make_tokenizer
from fourm_engine.masking.pack import build_maskers
from fourm_engine.modalities import ModalitiesConfig, load_modalities
from fourm_engine.vocabulary import Vocabulary
from fourm_plugins import SampleError, View, images
from fourm_plugins.manager import PluginManager
from tests.installing import install
from tests.test_structure import imported

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/plugins.md").read_text()
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "examples").rglob("README.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def thermal_package(tmp_path):
    """What an author has who followed docs/plugins.md: the package that the page's command makes, with the page's
    module in it."""
    name, layout = re.search(r"^fourm plugins new (\S+) --layout (\S+)$", PAGE, re.MULTILINE).groups()
    folder = write_package(name, layout, tmp_path)
    (folder / "fourm_thermal.py").write_text(blocks("python")[0])
    return folder


@pytest.fixture
def manager(tmp_path, thermal_package, monkeypatch):
    """The plugin host with that package and the example packages installed."""
    site = tmp_path / "site"
    site.mkdir()
    examples = [path.parent for path in sorted((ROOT / "examples/plugins").glob("*/pyproject.toml"))]
    others = [path for path in examples if path.name != "thermal"]
    monkeypatch.syspath_prepend(str(install(site, thermal_package, *others)))
    before = set(sys.modules)
    yield PluginManager()
    for module in set(sys.modules) - before:
        if module.startswith(("acme_", "fourm_thermal")):
            del sys.modules[module]


@pytest.fixture
def thermal(manager):
    return manager.modality("thermal", image_size=32, patch_size=8, codebook_size=16)


def test_the_pages_modality_reads_crops_normalises_and_writes_back(thermal):
    for files in thermal.example_samples(3, seed=0):
        value = thermal.read(files)
        assert thermal.read(thermal.write(value)) == pytest.approx(value, abs=0.005, nan_ok=True)
        seen = thermal.augment(value, View.centre(source_aspect=thermal.aspect(value)))
        array = thermal.normalise(seen)
        assert (array.shape, array.dtype) == ((1, 32, 32), np.float32)
        assert thermal.denormalise(array) == pytest.approx(seen, abs=1e-3, nan_ok=True)
        assert all(metric.compute([seen], [seen]) == 0 for metric in thermal.metrics())
        assert thermal.render(seen).size == (32, 32)
        assert {v.shape for v in thermal.constants([seen, seen]).values()} == {(32, 32)}


def test_the_pages_modality_reads_what_the_page_says(thermal):
    value = thermal.read({"png": images.encode_png(np.array([[0, 27315], [30315, 31015]], np.uint16))})
    assert value == pytest.approx(np.array([[np.nan, 0], [30, 37]]), abs=1e-3, nan_ok=True)
    warmer = np.where(np.isnan(value), np.nan, value + 2)
    assert thermal.metrics()[-1].compute([warmer], [value]) == pytest.approx(2)
    with pytest.raises(SampleError):
        thermal.read({"png": b""})


def test_the_pages_modality_gets_rows_of_the_vocabulary(thermal):
    assert Vocabulary.build([thermal.spec])["thermal"].size == 16


def test_the_readmes_modality_reads_its_examples():
    made: dict = {}
    exec(blocks("python", (ROOT / "README.md").read_text())[1], made)
    thermal = made["Thermal"]("thermal")
    assert [thermal.read(files).ndim for files in thermal.example_samples(2, seed=0)] == [2, 2]


def test_the_pages_test_is_the_one_that_new_writes(thermal_package):
    assert (thermal_package / "test_fourm_thermal.py").read_text().endswith(blocks("python")[1])


def test_the_pages_configs_are_taken_with_the_maskers_and_tokenizers_that_they_name(manager):
    for text in blocks("yaml"):
        raw = yaml.safe_load(text)["modalities"]
        modalities = load_modalities(ModalitiesConfig(**raw, select=sorted(raw["settings"])), manager)
        tokenizers = {name: make_tokenizer([modality], manager) for name, modality in modalities.items()}
        grids = {name: m for name, m in modalities.items() if m.spec.layout.kind == "grid"}
        maskers = build_maskers(grids, tokenizers, manager.masker_class)
        for name, settings in raw["settings"].items():
            assert modalities[name].spec.masker == settings.get("masker")
            if "kind" in settings.get("tokenizer", {}):
                assert tokenizers[name].kind == settings["tokenizer"]["kind"]
        assert {type(masker).__name__ for masker in maskers.values()} <= {"GridMasker", "BlockMasker"}


#: Sub-commands of the example packages, which their tests run.
PACKAGED = {
    name
    for project in (ROOT / "examples/plugins").glob("*/pyproject.toml")
    for section in re.findall(r'"fourm\.commands\.v1"\]\n((?:\w+ = .*\n)+)', project.read_text())
    for name in re.findall(r"^\w+", section, re.MULTILINE)
}
COMMANDS = [
    (page.relative_to(ROOT).as_posix(), line.partition("#")[0].replace("\\", " ").split())
    for page in PAGES
    for block in blocks("sh", page.read_text())
    for line in (re.sub(r"^([A-Z_]+=\S* )+", "", line) for line in block.replace("\\\n", " ").splitlines())
    if line.startswith("fourm ") and line.split()[1] not in PACKAGED
]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda x: x if isinstance(x, str) else " ".join(x[1:3]))
def test_every_command_of_the_pages_exists_with_its_options(page, words):
    command = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        default = getattr(command, "default", None)  # `fourm runs FOLDER` is `fourm runs list FOLDER`
        if default and (not rest or rest[0] not in command.commands):
            rest = [default, *rest]
        command = command.commands.get(rest[0]) if rest else None
        assert command is not None, f"{page}: no command {' '.join(words)}"
        rest = rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in rest if word.startswith("--")} <= known, f"{page}: {' '.join(words)}"


BENCHMARKS = [
    (page.relative_to(ROOT).as_posix(), *found)
    for page in PAGES
    for found in re.findall(r"-m benchmarks\.([a-z_]+)([^`|#\n]*)", page.read_text().replace("\\\n", " "))
]


@pytest.mark.parametrize(("page", "name", "arguments"), BENCHMARKS, ids=lambda x: x.strip().partition(" ")[0])
def test_every_benchmark_of_the_pages_exists_with_its_options(page, name, arguments):
    source = (ROOT / f"benchmarks/{name}.py").read_text()
    assert "__main__" in source, f"{page}: benchmarks.{name} is not a command"
    for option in re.findall(r"(?<!\S)--[\w-]+", arguments):
        assert f'"{option}"' in source, f"{page}: benchmarks.{name} has no {option}"


def test_the_page_of_benchmarks_names_each():
    page = (ROOT / "benchmarks/README.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert f"benchmarks.{path.stem}" in page or f"benchmarks/{path.name}" in page, path.name
        # `python -m` from the repository's folder finds no other way of naming one.
        assert not imported(path) & {other.stem for other in path.parent.glob("*.py")}, path.name


def anchors(page: Path) -> set[str]:
    """The ids that a code host gives to the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_heading_leads_to_one(page):
    for file, heading in re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        assert heading in anchors(page.parent / file if file else page), f"{page.name}: {file}#{heading}"


def test_every_file_that_the_pages_name_exists():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(
            r"`((?:fourm_\w+|examples|plugins|tests|docs|benchmarks)/[\w./-]*\.(?:py|yaml|md))`", text
        ):
            assert (ROOT / name).exists() or (page.parent / name).exists(), f"{page.name} names {name}"
        for name in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (page.parent / name).exists(), f"{page.name} links to {name}"


def test_the_files_of_the_architecture_page_are_where_its_rule_says():
    """A file without a folder lies in the folder of the file before it; `fourm_engine/` may be left out."""
    text = (ROOT / "docs/architecture.md").read_text().partition("## Where to find")[2].partition("\n## ")[0]
    for line in text.splitlines()[3:]:
        folder = ROOT
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", line):
            tried = [ROOT / name, ROOT / "fourm_engine" / name]
            if "/" not in name and folder != ROOT:
                tried = [folder / name]
            path = next((path for path in tried if path.exists()), None)
            assert path, f"{name} in: {line}"
            folder = path.parent if path.is_file() else path


def test_the_changelog_and_the_citation_tell_the_version_of_all_packages():
    projects = [ROOT / "pyproject.toml", *(ROOT / "plugins").glob("*/pyproject.toml")]
    versions = {re.search(r'^version = "(.*)"$', path.read_text(), re.MULTILINE)[1] for path in projects}
    assert versions == {yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]}
    assert versions == {re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]}

"""The package of docs/hooks.md does what the page says."""

from __future__ import annotations

import pickle
import re
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.generate.plan import Stage
from fourm_engine.train.loop import Trainer
from fourm_plugins import hookspecs
from fourm_plugins.distributions import GROUPS
from fourm_plugins.manager import PluginManager
from tests.fakes import fake_modalities, to_npy
from tests.generate.test_sampler import sample, sampler  # noqa: F401 (a fixture)
from tests.installing import install
from tests.running import losses
from tests.train.toy_task import ToyTask, config

PAGE = (Path(__file__).parents[1] / "docs/hooks.md").read_text()


@pytest.fixture
def install_from(tmp_path, monkeypatch):
    """install_from(text, module): installs the first module, and the first pyproject.toml, that are in `text`."""
    modules = list[str]()

    def install_module(text, module):
        package, site = tmp_path / "package", tmp_path / "site"
        package.mkdir()
        site.mkdir()
        for file, language in ((f"{module}.py", "python"), ("pyproject.toml", "toml")):
            (package / file).write_text(re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1])
        monkeypatch.syspath_prepend(str(install(site, package)))
        modules.append(module)

    yield install_module
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def manager(install_from):
    """The plugin host with the page's package installed."""
    install_from(PAGE, "acme_more")
    return PluginManager()


def test_its_observer_optimiser_schedule_and_command_work_in_a_run(manager, tmp_path):
    manager.activate_observers(["best"])
    settings = config(optimiser="nadam", schedule="linear", optimiser_options={"betas": [0.9, 0.99]}, eval_every=5)
    Trainer(ToyTask(), settings, tmp_path / "run", seed=1, host=manager).run()
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    shown = CliRunner().invoke(app, ["best", str(tmp_path / "run")])
    assert re.fullmatch(r"\d+\.\d{4} at step \d+\nfinished\n", shown.output)
    assert "Show the best held-out loss" in CliRunner().invoke(app, ["best", "--help"]).output


def test_its_source_reads_a_database_in_every_process(install_from, tmp_path):
    install_from(PAGE[PAGE.index("## Sources") :], "acme_table")
    with sqlite3.connect(tmp_path / "photos.db") as db:
        db.execute("CREATE TABLE samples (name, modality, extension, content, version)")
        rows = [(f"{i:02d}", "words", "txt", f"red {i}".encode(), 1) for i in range(6)]
        db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", rows)
        picture = to_npy(np.zeros((4, 4, 3), np.uint8))
        db.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", ("00", "a", "npy", picture, 1))
    db.close()
    modalities = fake_modalities(("words",))
    data = AlignedData.from_config(modalities, DataConfig(train=f"table:{tmp_path}/photos.db"), training=True)
    for one in (data, pickle.loads(pickle.dumps(data))):
        assert [one.files(name, "words") for name in one.names] == [{"txt": row[3]} for row in rows]
        assert one.stamp("03", "words") == "[(1,)]"
    pixels = fake_modalities(("a@pixels",))  # which read the files of `a`
    data = AlignedData.from_config(pixels, DataConfig(train=f"table:{tmp_path}/photos.db"), training=True)
    assert data.files("00", "a@pixels") == {"npy": picture}
    with pytest.raises(ValueError, match=r"no such database: nowhere.db \(source 'table' of acme-table 1.0.0\)"):
        AlignedData.from_config(modalities, DataConfig(train="table:nowhere.db"), training=True)


def test_its_order_decodes_a_grid(manager, sampler):  # noqa: F811
    stage = Stage(target="height", scheme="noisy", steps=4, temperature=1.0)
    assert len(sampler.run([sample()], [stage], [0])[0]["height"].ids) == 16


def test_the_page_names_every_group_and_every_hook_of_observers():
    named = set(re.findall(r"`(fourm\.\w+\.v1)`", PAGE))
    assert named == {group for group in GROUPS if group.split(".")[1] not in ("modalities", "tokenizers", "maskers")}
    hooks = {
        name: hook
        for name, hook in vars(hookspecs).items()
        if name.startswith("fourm_") and not hook.fourm_spec["firstresult"]
    }
    table = dict(re.findall(r"^\| `(fourm_\w+)\((.*?)\)`", PAGE, re.MULTILINE))
    assert {name: arguments.split(", ") for name, arguments in table.items()} == {
        name: list(hook.__annotations__)[:-1] for name, hook in hooks.items()
    }

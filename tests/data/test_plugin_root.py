"""Data that the source of a package opens: the samples of a folder, and errors that name the package and the place."""

from __future__ import annotations

import json
import logging
import os
import pickle

import numpy as np
import pytest
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.data.config import DataConfig
from fourm_engine.data.data_store import DataStore
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.recipes.started import relocate
from fourm_plugins.manager import PluginError, PluginManager
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data
from tests.sdk.sites import entry

MODALITIES = fake_modalities(("a", "words"))
NAMES = sample_names(12)
#: Opens a folder of `{sample}.{modality}.{extension}` files; `wrong` is what it does wrong.
SOURCE = """
import os
from pathlib import Path
import numpy as np
from fourm_plugins import SampleError, SampleSource

class Flat(SampleSource):
    notes = ["one note"]
    def __init__(self, location, specs, *, wrong=""):
        if not Path(location).is_dir():
            raise FileNotFoundError(2, "no such flat folder", location)
        self.root, self.wrong, self.pid = Path(location), wrong, os.getpid()
        if wrong == "open":
            1 / 0
    @property
    def names(self):
        names = sorted({p.name.split(".")[0] for p in self.root.iterdir()}, reverse=True)
        odd = {"twice": [names[0]], "number": [3], "out": ["../x"], "empty": [""]}
        return names + odd.get(self.wrong, [])
    def present(self, modality):
        there = [any(self.root.glob(f"{name}.{modality}.*")) for name in self.names]
        return np.array(there + [True] * (self.wrong == "long")).astype(int if self.wrong == "ints" else bool)
    def files(self, name, modality):
        assert self.pid == os.getpid(), "another process opened it"
        if name == "0003" and self.wrong == "sample":
            raise SampleError("is damaged")
        if name == "0003" and self.wrong == "key":
            raise KeyError(name)
        if self.wrong in ("none", "nothing", "text", "kind"):
            return {"none": None, "nothing": {}, "text": {"npy": "x"}, "kind": {"exe": b"x"}}[self.wrong]
        return {p.suffix[1:]: p.read_bytes() for p in self.root.glob(f"{name}.{modality}.*")}
    def stamp(self, name, modality):
        return str([p.stat().st_size for p in self.root.glob(f"{name}.{modality}.*")])
    def where(self, name, modality):
        return f"{name}.{modality}"
    def column(self, name):
        return {"number": {n: i for i, n in enumerate(self.names)}, "list": [1, 2]}[name]
    @property
    def splits(self):
        return {"train": self.names[2:], "val": self.names[:2]}

def no_source(location, specs):
    return 3
"""


@pytest.fixture
def flat(tmp_path, install):
    """The folder, and the samples in a folder of the usual kind; the package is installed."""
    install("acme-flat", entry("flat", "acme_flat:Flat", "fourm.sources.v1"), source=SOURCE)
    write_data(tmp_path / "usual", MODALITIES, NAMES)
    (tmp_path / "usual/words/0007.txt").unlink()
    (tmp_path / "flat").mkdir()
    for path in (tmp_path / "usual").glob("*/*"):
        (tmp_path / "flat" / f"{path.stem}.{path.parent.name}{path.suffix}").write_bytes(path.read_bytes())
    return tmp_path / "flat"


def opened(text, modalities=MODALITIES, *, training=True, **settings):
    return AlignedData.from_config(modalities, DataConfig(train=text, **settings), training=training)


def content(data):
    return {(name, m): data.files(name, m) for name in data.names for m in sorted(data.has(name))}


def test_what_a_package_opens_has_the_samples_files_and_values_of_a_folder(flat, caplog):
    caplog.set_level(logging.INFO)
    usual, data = opened(str(flat.parent / "usual")), opened(f"flat:{flat}")
    assert list(data.names) == list(usual.names) == NAMES
    assert content(data) == content(usual)
    assert data.counts == {"a": 12, "words": 11}
    assert "words" not in data.has("0007")
    assert np.array_equal(data.value("0002", "a"), usual.value("0002", "a"))
    assert data.where("0002", "a") == f"flat:{flat}:0002.a"
    assert f"flat:{flat}: one note" in caplog.text


def test_its_splits_are_chosen_as_those_of_a_folder_and_val_is_never_trained_on(flat, caplog):
    text = f"flat:{flat}"
    assert list(opened(text, train_split="train").names) == NAMES[:10]
    assert list(opened(text, val=text, val_split="val").names) == NAMES[:10]
    assert "2 of 12 training samples" in caplog.text
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, val \(source 'flat' of acme-flat 1.2\)"):
        opened(text, train_split="test")
    assert len(opened(text, held_out=0.3).names) + len(opened(text, held_out=0.3, training=False).names) == 12


def test_a_column_has_a_value_for_each_sample_and_what_is_none_is_the_packages_fault(flat):
    data = opened(f"flat:{flat}")
    assert data.column("number") == {name: 11 - i for i, name in enumerate(NAMES)}
    with pytest.raises(PluginError, match=r"source 'flat' of acme-flat 1.2 gives a list as its column list, not {samp"):
        data.column("list")
    with pytest.raises(PluginError, match="failed with KeyError"):
        data.column("other")
    with pytest.raises(ValueError, match=r"usual: files have no column 'number'; name a file of labels"):
        opened(str(flat.parent / "usual")).column("number")


def test_it_goes_to_other_processes_which_open_their_own(flat):
    data = opened(f"flat:{flat}")
    before = content(data)
    assert content(pickle.loads(pickle.dumps(data))) == before
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, b"same" if content(data) == before else b"else")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 4) == b"same"  # `files` asserts that its process opened it


def test_tokens_of_it_are_those_of_a_folder_and_only_what_changed_is_made_anew(flat, tmp_path):
    tokenizers, reports = fake_tokenizers(MODALITIES), {}
    for part, text in (("usual", str(tmp_path / "usual")), ("flat", f"flat:{flat}"), ("flat", f"flat:{flat}")):
        config = DataConfig(train=text, tokens=tmp_path / "tokens" / part, workers=2)
        data = AlignedData.from_config(MODALITIES, config, training=True)
        reports[part] = tokenize_split(
            data, tmp_path / "tokens" / part / "train", tokenizers, config, training=True, seed=1
        )
    assert reports["flat"].modalities["a"].unchanged == 12
    stores = [
        DataStore.from_config(config, MODALITIES, {}, training=True, seed=1)
        for config in (DataConfig(tokens=tmp_path / "tokens" / part) for part in ("usual", "flat"))
    ]
    assert stores[0].identity() == stores[1].identity()
    for row in range(12):
        assert np.array_equal(stores[0].load(row, "a"), stores[1].load(row, "a"))
    assert json.loads((tmp_path / "tokens/flat/train/splits.json").read_text())["val"] == ["0011", "0010"]
    some = DataConfig(tokens=tmp_path / "tokens/flat", train_split="train")  # of the copy beside the tokens
    assert len(DataStore.from_config(some, MODALITIES, {}, training=True, seed=1)) == 10


def test_a_run_that_resumes_on_it_has_the_identity_of_its_names(flat):
    tokenizers = fake_tokenizers(MODALITIES)

    def identity(text):
        return DataStore.from_config(DataConfig(train=text), MODALITIES, tokenizers, training=True, seed=1).identity()

    assert identity(f"flat:{flat}") == identity(f"flat:{flat}/") == identity(str(flat.parent / "usual"))
    (flat / "0003.a.npy").unlink()
    (flat / "0003.words.txt").unlink()
    assert identity(f"flat:{flat}") != identity(str(flat.parent / "usual"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("open", "failed with ZeroDivisionError: division by zero (opening it; "),
        ("twice", "names the sample '0011' twice"),
        ("number", "has a sample called 3, a int, not a str"),
        ("out", "has a sample '../x': no path below a folder"),
        ("empty", "has a sample '': no path below a folder"),
        ("long", "says which of its 12 samples have a by bool (13,), not by a bool for each"),
        ("ints", "says which of its 12 samples have a by int64 (12,), not by a bool for each"),
        ("none", "has 0003 (a), but gives None, not {extension: bytes}"),
        ("nothing", "has 0003 (a), but gives no file, not {extension: bytes}"),
        ("text", "gives 'npy': a str for 0003 (a), not bytes of npy"),
        ("kind", "gives 'exe': a bytes for 0003 (a), not bytes of npy"),
        ("key", "failed with KeyError: '0003' (0003 (a); "),
    ],
)
def test_a_source_that_breaks_its_promises_is_named_with_the_location(flat, wrong, message):
    with pytest.raises(PluginError) as caught:
        opened(f"flat:{flat}?wrong={wrong}").value("0003", "a")
    assert str(caught.value).startswith(f"flat:{flat}?wrong={wrong}: source 'flat' of acme-flat 1.2 {message}")
    assert "\n" not in str(caught.value)


def test_a_sample_that_cannot_be_used_is_skipped_with_its_place(flat, caplog):
    data = opened(f"flat:{flat}?wrong=sample")
    with pytest.raises(ValueError, match="is damaged") as caught:
        data.value("0003", "a")
    data.skip("0003", caught.value)
    assert f"flat:{flat}:0003.a" in caplog.text
    small = AlignedData(PluginRoot(f"flat:{flat}", PluginManager()), MODALITIES, max_bytes=10)
    with pytest.raises(ValueError, match="bytes, more than the 10 allowed"):
        small.value("0003", "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flag:x", "no installed plugin provides the source 'flag'; did you mean 'flat'? installed: flat"),
        ("flat:nowhere", "flat:nowhere: [Errno 2] no such flat folder: 'nowhere' (source 'flat' of acme-flat 1.2)"),
        ("flat:x?wrogn=1", "source 'flat' of acme-flat 1.2 has no setting 'wrogn'; did you mean 'wrong'?"),
        ("flat:x?wrong", "settings are written ?key=value&key=value, not ?wrong"),
        ("flat:x?wrong=1&wrong=2", "the setting 'wrong' is given twice"),
        ("flat:x://me:secret@host/x", "a user or password here would be in logs"),
    ],
)
def test_a_wrong_location_is_one_line_that_says_what_to_change(flat, text, message):
    with pytest.raises(ValueError, match=r"fla[tg]:") as caught:
        opened(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_folder_with_a_colon_is_written_with_a_dot(tmp_path, monkeypatch, install):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "day:1", MODALITIES, NAMES)
    with pytest.raises(PluginError, match=r"the folder of that name is written \./day:1"):
        opened("day:1")
    assert list(opened("./day:1").names) == NAMES


def test_what_is_no_source_is_refused_when_it_is_activated(install, flat):
    install(
        "acme-more",
        "[fourm.sources.v1]\nnumber = acme_more:no_source\nX1 = acme_more:Flat\npipe = acme_more:Flat\n"
        "half = acme_more:H\n",
        source=SOURCE + "\nclass H(SampleSource):\n    def files(self, name): return {}\n",
    )
    host = PluginManager()
    with pytest.raises(PluginError, match=r"opens it as a int, not as a fourm_plugins\.SampleSource"):
        opened(f"number:{flat}")
    with pytest.raises(PluginError, match="called 'X1'; users write it before a colon"):
        host.source("X1")
    with pytest.raises(PluginError, match="does not define names, present, stamp"):
        host.source("half")
    shown = CliRunner().invoke(app, ["plugins", "list"]).output
    assert "`pipe:` is a kind of data of fourm-engine" in shown
    assert [line.split()[1:3] for line in shown.splitlines() if line.startswith("flat ")] == [["source", "ok"]]


def test_a_disabled_source_is_not_imported(flat, monkeypatch):
    monkeypatch.setenv("FOURM_DISABLE", "flat")
    with pytest.raises(PluginError, match="is disabled"):
        opened(f"flat:{flat}")


def test_the_config_of_a_moved_run_finds_the_location_and_leaves_others_as_they_are(flat, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "started.json").write_text(json.dumps({"folder": str(tmp_path)}))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    for text, moved in (("flat:flat?wrong=x", f"flat:{flat}?wrong=x"), ("flat:host/base", "flat:host/base")):
        raw = {"run": "run", "data": {"train": text}}
        assert relocate(raw, run / "config.yaml") == {}
        assert raw["data"]["train"] == moved

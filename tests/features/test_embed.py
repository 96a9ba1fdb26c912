"""`fourm embed` and `fourm search`: an index appears whole, and finds what it was made from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fourm_engine.cli.embed import embed, search
from fourm_engine.features.encoder import Encoder
from fourm_engine.features.index import Index
from tests.generate.toys import make_model, picture, saved_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run over the toys, with six samples in `tmp_path/data`; the last has no picture."""
    values = {"colour": [picture(i) for i in range(5)], "words": [text * 2 for text in "abcdef"]}
    return saved_run(tmp_path, monkeypatch, values, "sample")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_sample_is_nearest_to_itself(run, tmp_path, capsys):
    embed(str(run), str(tmp_path / "data"), ["colour", "words"], tmp_path / "index", batch_size=4)
    index = Index.load(tmp_path / "index")
    assert index.names == [f"sample{i}" for i in range(6)]
    assert (index.features.shape, index.features.dtype) == ((6, 32), np.float32)
    # The last has words alone; a query of files finds what the same files gave.
    for i in (1, 5):
        query = [f"words={tmp_path}/data/words/sample{i}.txt"]
        query += [f"colour={tmp_path}/data/colour/sample{i}.png"] * (i < 5)
        capsys.readouterr()
        search(tmp_path / "index", str(run), query, k=3)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"1.0000 sample{i}"
        assert len(lines) == 3
    search(tmp_path / "index", str(run), ["words=text:abc"], k=50)  # any input may be a query
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_an_index_holds_what_the_encoder_gives(run, tmp_path):
    embed(str(run), str(tmp_path / "data"), ["colour"], tmp_path / "index", batch_size=2)
    index = Index.load(tmp_path / "index")
    assert index.names == [f"sample{i}" for i in range(5)]  # the sample without a picture is not there
    expected = Encoder(make_model())([{"colour": picture(i)} for i in range(5)]).detach().numpy()
    assert np.abs(index.features - expected).max() < 1e-5


def test_a_damaged_file_is_left_out_with_a_warning(run, tmp_path, capsys, caplog):
    (tmp_path / "data/colour/sample2.png").write_bytes(b"\x89PNG damaged")
    embed(str(run), str(tmp_path / "data"), ["colour"], tmp_path / "index")
    assert "sample2" not in Index.load(tmp_path / "index").names
    assert "1 could not be used" in capsys.readouterr().out
    assert "sample2.png" in caplog.text


def test_an_index_is_replaced_whole_or_stays_as_it_was(run, tmp_path, monkeypatch):
    embed(str(run), str(tmp_path / "data"), ["colour"], tmp_path / "index")
    before = files(tmp_path / "index")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(np, "save", full)
        with pytest.raises(OSError, match=r"index: cannot be written: No space left"):
            embed(str(run), str(tmp_path / "data"), ["words"], tmp_path / "index")
    assert files(tmp_path / "index") == before
    assert {path.name for path in tmp_path.iterdir()} == {"site", "run", "data", "index"}
    embed(str(run), str(tmp_path / "data"), ["words"], tmp_path / "index")
    assert Index.load(tmp_path / "index").inputs == ["words"]


def test_nothing_but_an_index_is_replaced(run, tmp_path):
    before = sorted((tmp_path / "data").rglob("*"))
    with pytest.raises(ValueError, match="data holds something other than an index"):
        embed(str(run), str(tmp_path / "data"), ["colour"], tmp_path / "data")
    assert sorted((tmp_path / "data").rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "folder", "given", "message"),
    [
        ("nowhere", "data", "colour", "nowhere: no such folder"),
        ("run", "nowhere", "colour", "nowhere: no such folder"),
        ("run", "data", "colours", "no modality 'colours'"),
        ("run", "data", "pose", "holds no data of any modality"),
    ],
)
def test_what_cannot_be_embedded_is_one_line_and_leaves_nothing(run, tmp_path, name, folder, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        embed(str(tmp_path / name), str(tmp_path / folder), [given], tmp_path / "index")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_what_cannot_be_searched_is_one_line(run, tmp_path):
    embed(str(run), str(tmp_path / "data"), ["colour"], tmp_path / "index")

    def refused(message, query=("words=abc",), model=run):
        with pytest.raises(ValueError, match=message) as caught:
            search(tmp_path / "index", str(model), list(query))
        assert "\n" not in str(caught.value)

    refused("no modality 'wrods'", ["wrods=abc"])
    refused("no such file", ["colour=nowhere.png"])
    refused("expected NAME=FILE", ["abc"])
    other = make_model()
    other.network.encoder_norm.weight.data.add_(1)
    other.save_pretrained(tmp_path / "other/model")
    refused("made by another model", model=tmp_path / "other")
    swapped = f"^{run} is no index, and .*/index is one: write fourm search .*/index {run} --query"
    with pytest.raises(ValueError, match=swapped):
        search(run, str(tmp_path / "index"), ["words=abc"])
    facts = json.loads((tmp_path / "index/index.json").read_text())
    for text, message in (
        ("{", "not JSON"),
        ('{"format": 1}', "not an index of format 2"),
        (json.dumps(facts | {"samples": 3}), "samples, inputs or encoder is damaged"),
        (json.dumps(facts | {"samples": ["one"]}), "1 names, but 5 features"),
    ):
        (tmp_path / "index/index.json").write_text(text)
        refused(message)
    (tmp_path / "index/index.json").write_text(json.dumps(facts))
    np.save(tmp_path / "index/features.npy", np.array([{}], object), allow_pickle=True)
    refused("features.npy: missing or damaged")
    (tmp_path / "index/features.npy").unlink()
    refused("features.npy: missing or damaged")
    (tmp_path / "index/index.json").unlink()
    refused("no index of features")

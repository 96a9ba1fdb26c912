"""Files of a data set that lie: each ends in one line that says so, whatever memory it asks for."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from fourm_plugins import SampleError
from fourm_plugins.manager import PluginManager
from tests.grids import text_spec
from tests.trust.hostile_files import Evil, readers
from tests.trust.watch import watched

READERS = readers()
CASES = [(kind, what) for kind, (files, _) in READERS.items() for what in files]


@pytest.mark.parametrize(("kind", "what"), CASES, ids=lambda part: part)
def test_a_hostile_file_is_refused_as_a_sample_error(kind, what):
    files, read = READERS[kind]
    began = time.process_time()
    with pytest.raises(SampleError):
        read(files[what])
    assert time.process_time() - began < 10


def test_all_of_them_fit_into_little_memory(tmp_path):
    """In a process that may not take more: none is read but those with whole pixels, and none runs out of memory."""
    program = Path(__file__).with_name("hostile_files.py")
    environment = {**os.environ, "PYTHONPATH": str(program.parents[2]), "OMP_NUM_THREADS": "1"}
    # Started here on purpose, which the watch over this folder would take for an attack.
    code = (
        f"import runpy, sys; sys.argv = ['x', {str(tmp_path)!r}]; runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    started = os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], environment)
    assert started == 0
    assert json.loads((tmp_path / "bad.json").read_text()) == []


def test_a_hostile_file_in_a_data_set_is_named_in_one_short_line(tmp_path):
    files = {"boxes/long.json": READERS["boxes"][0]["a label of a million characters"]}
    files |= {"boxes/deep.json": READERS["boxes"][0]["100,000 brackets"]}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with open(tmp_path / "boxes/huge.json", "wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    data = AlignedData(tmp_path, {"boxes": PluginManager().modality("boxes")}, on_error="raise")
    for name in data.names:
        with pytest.raises(BadFile, match=f"boxes/{name}.json: boxes: ") as caught:
            data.value(name, "boxes")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 100_000, '{"train": ' * 1000, '{"train": 3}', "\x80"])
def test_a_hostile_split_is_refused(tmp_path, text):
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/a.json").write_text("[]")
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(ValueError, match=r"splits\.json"):
        AlignedData(tmp_path, {"boxes": PluginManager().modality("boxes")}, "train")


def pad(data):
    data["padding"] = {
        "strategy": {"Fixed": 1 << 40},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }


def grow(data):
    """A text of one letter becomes one of 10^12."""
    one = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    data["normalizer"] = {"type": "Sequence", "normalizers": [one] * 12}


HOSTILE_VOCABULARIES = {
    "padding without end": pad,
    "replacements that double": grow,
    "an id of four billion": lambda data: data["model"]["vocab"].update(word=(1 << 32) - 1),
    "an id beyond its space": lambda data: data["model"]["vocab"].update(word=600),
    "a negative id": lambda data: data["model"]["vocab"].update(word=-1),
    "another model": lambda data: data["model"].update(type="Unigram"),
    "a model of no kind": lambda data: data.update(model=[1]),
    "no model": lambda data: data.pop("model"),
}


@pytest.fixture
def spec():
    return text_spec("words", size=500, tokens=16, space="words")


@pytest.mark.parametrize("what", HOSTILE_VOCABULARIES)
def test_a_hostile_vocabulary_is_refused(tmp_path, spec, what):
    tokenizer = WordPieceTokenizer([spec], coordinate_bins=2)
    tokenizer.fit(lambda: ["a few words, a few more words"])
    tokenizer.save(tmp_path)
    path = tmp_path / "wordpiece.json"
    WordPieceTokenizer([spec], coordinate_bins=2).load(tmp_path)
    data = json.loads(path.read_text())
    HOSTILE_VOCABULARIES[what](data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"wordpiece\.json|vocabulary") as caught:
        WordPieceTokenizer([spec], coordinate_bins=2).load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 1_000_000, "{}", "[]", "\x80\x04K\x01.", '{"model": ' * 100_000])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, spec, text):
    (tmp_path / "wordpiece.json").write_text(text)
    with pytest.raises(ValueError, match=r"wordpiece\.json: not a WordPiece vocabulary"):
        WordPieceTokenizer([spec], coordinate_bins=2).load(tmp_path)


def test_the_watch_sees_what_it_looks_for(tmp_path):
    with watched() as seen:
        subprocess.run([sys.executable, "-c", ""], check=True)
        pickle.loads(pickle.dumps(Evil))
        __import__("canary")
    del sys.modules["canary"]
    (tmp_path / "owned").unlink()
    assert [event.split()[0] for event in seen] == ["subprocess.Popen", "pickle.find_class", "import", "os.system"]

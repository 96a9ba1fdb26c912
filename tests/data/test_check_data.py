"""`check_data`: every kind of damage is named with its file, a sound data set has no problem, memory does not grow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tracemalloc

import numpy as np
import pytest

from fourm_engine.data.checks.check import check_data
from fourm_engine.data.checks.files import COLUMNS, Reader, survey
from fourm_engine.data.checks.part import Wanted
from fourm_engine.data.checks.statistics import Moments
from tests.fakes import CLASSES, fake_modalities, fake_tokenizers, sample_names, to_npy, write_data, write_tar

NAMES = sample_names(10)  # of which `write_data` makes files that differ


@pytest.fixture
def modalities():
    return fake_modalities()


@pytest.fixture
def root(tmp_path, modalities):
    write_data(tmp_path / "data", modalities, NAMES)
    return tmp_path / "data"


def check(root, modalities, train=NAMES[:8], val=NAMES[8:], **options):
    parts = [
        Wanted("train", root, frozenset(train), frozenset(val), "val", "train"),
        Wanted("val", root, frozenset(val), split="val"),
    ]
    return check_data(parts, modalities, **options)


def found(checked, kind, level="problem"):
    return [finding for finding in checked.findings if (finding.kind, finding.level) == (kind, level)]


def the(checked, kind, level="problem"):
    (finding,) = found(checked, kind, level)
    return finding


def test_a_sound_data_set_has_no_problem(root, modalities):
    checked = check(root, modalities)
    assert checked.problems == []
    assert checked.complete
    assert [len(part.names) for part in checked.parts] == [8, 2]


@pytest.mark.parametrize("tar", [False, True])
def test_statistics_are_those_of_the_arrays_that_the_model_sees(tmp_path, modalities, tar):
    write_data(tmp_path, modalities, NAMES, tar=tar)
    checked = check_data([Wanted("all", tmp_path)], modalities, tokenizers=fake_tokenizers(modalities))
    statistics = checked.parts[0].survey.statistics
    values = {name: [] for name in modalities}
    for name in NAMES:
        for modality in ("a", "b"):
            content = modalities[modality].example_samples(1, sum(map(ord, name + modality)))[0]
            values[modality].append(modalities[modality].read(content))
    pixels = np.stack(values["a"])  # (10, 12, 16, 2)
    assert statistics["a"].values.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert statistics["a"].values.deviation == pytest.approx(pixels.std((0, 1, 2)))
    assert statistics["a"].arrays.count.tolist() == [10 * 64] * 2
    assert statistics["b"].class_pixels.sum() == 10 * 64
    assert (statistics["b"].class_samples <= 10).all()
    assert statistics["words"].tokens.total() == statistics["words"].characters.total() == 20  # both alternatives
    sizes = checked.parts[0].sizes("a")
    assert (sizes["width"], sizes["distinct_sizes"]) == ({"min": 16, "median": 16, "max": 16}, 1)


def test_workers_and_chunks_change_nothing(root, modalities):
    (root / "a" / "0003.npy").write_bytes(b"damaged")
    alone, together = (json.dumps(check(root, modalities, workers=n).to_json()) for n in (0, 2))
    assert alone == together


def test_a_damaged_file_is_named_with_all_that_read_it_and_left_out_of_the_numbers(root, modalities):
    (root / "a" / "0003.npy").write_bytes(b"damaged")
    checked = check(root, modalities)
    finding = the(checked, "damaged")
    (item,) = finding.listed.items
    assert (item["sample"], item["modality"]) == ("0003", "a, a@pixels")
    assert item["file"].endswith("a/0003.npy")
    assert "truncated or no .npy file" in finding.message
    assert checked.parts[0].survey.statistics["a"].samples == 7


def test_an_array_that_is_not_what_the_spec_says_is_damaged(root, modalities):
    (root / "b" / "0001.npy").write_bytes(to_npy(np.full((12, 16), CLASSES + 2)))
    assert "outside -1 to 4" in the(check(root, modalities), "damaged").message


def test_a_plugin_that_breaks_on_a_file_does_not_end_the_check(root, modalities, monkeypatch):
    def read(files):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(modalities["b"], "read", read)
    findings = found(check(root, modalities), "damaged")
    assert [finding.listed.count for finding in findings] == [8, 2]
    assert "the plugin failed with ZeroDivisionError: oops" in findings[0].message


class Killed(Reader):
    def __getitem__(self, task):
        if task[0][0] != "0000":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(task)


def test_a_worker_that_is_killed_is_one_line_with_the_samples_that_it_may_have_read():
    reader = Killed({}, {}, {}, {})
    names = [f"{k:04d}" for k in range(200)]
    with pytest.raises(ValueError, match=r"ended .*set --workers to fewer.* samples 00") as error:
        survey(reader, names, {}, workers=2)
    assert "\n" not in str(error.value)


def test_a_turned_map_is_misaligned(root, modalities):
    value = modalities["b"].read({"npy": (root / "b" / "0002.npy").read_bytes()})
    (root / "b" / "0002.npy").write_bytes(to_npy(value.T))
    finding = the(check(root, modalities), "misaligned")
    assert [item["sample"] for item in finding.listed.items] == ["0002"]
    assert "width / height is 0.750, but 1.333 in a" in finding.message


def test_equal_pictures_in_both_parts_are_a_leak_and_in_one_a_note(root, modalities):
    shutil.copy(root / "a" / "0001.npy", root / "a" / "0002.npy")
    checked = check(root, modalities)
    assert the(checked, "duplicated", "note").listed.items == [["0001", "0002"]]
    assert not found(checked, "leak")
    shutil.copy(root / "a" / "0001.npy", root / "a" / "0009.npy")
    finding = the(check(root, modalities), "leak")
    assert finding.listed.items == [{"train": "0001", "val": "0009"}]


def test_equal_texts_leak_only_with_all_else_that_a_sample_has(tmp_path):
    modalities = fake_modalities(["b", "words"])
    write_data(tmp_path, modalities, NAMES)
    shutil.copy(tmp_path / "words" / "0001.txt", tmp_path / "words" / "0009.txt")
    assert not found(check(tmp_path, modalities), "leak")
    shutil.copy(tmp_path / "b" / "0001.npy", tmp_path / "b" / "0009.npy")
    assert "with all files" in the(check(tmp_path, modalities), "leak").message


def test_frames_of_one_value_are_named_and_are_no_duplicates(root, modalities):
    for name in ("0001", "0009"):
        (root / "a" / f"{name}.npy").write_bytes(to_npy(np.zeros((12, 16, 2), np.float32)))
    checked = check(root, modalities)
    assert [f.listed.items for f in found(checked, "empty", "note") if f.source == "a"] == [["0001"], ["0009"]]
    assert not found(checked, "leak")


def test_a_sample_of_both_splits_is_a_leak(root, modalities):
    checked = check(root, modalities, train=NAMES[:9])
    assert the(checked, "leak").listed.items == ["0008"]
    assert [len(part.names) for part in checked.parts] == [8, 2]


def test_samples_without_files_without_a_modality_and_without_a_split_are_named(root, modalities):
    (root / "b" / "0000.npy").unlink()
    checked = check(root, modalities, train=[*NAMES[:7], "nosuch"])
    assert the(checked, "missing").listed.items == ["nosuch"]
    assert the(checked, "lacking", "note").listed.items == ["0000"]
    assert the(checked, "extra", "note").listed.items == ["0007"]
    part = checked.parts[0].to_json()
    assert part["both"]["a"] == {"a": 7, "b": 6, "words": 7}
    assert part["sets"] == [{"sources": ["a", "b", "words"], "samples": 6}, {"sources": ["a", "words"], "samples": 1}]


def test_a_modality_without_any_file_is_a_problem(root, modalities):
    shutil.rmtree(root / "words")
    assert "train: no sample has words" in found(check(root, modalities), "missing")[0].message


def test_what_belongs_to_no_modality_is_named(root, modalities):
    (root / "thermal").mkdir()
    (root / "a" / "0001.bmp").write_bytes(b"")
    (root / "a" / "old.tar.gz").write_bytes(b"")
    checked = check(root, modalities)
    assert any("0001.bmp" in finding.message for finding in found(checked, "extra", "note"))
    (folders,) = found(checked, "unread", "note")
    assert folders.listed.items == ["thermal"]
    assert "old.tar.gz" in the(checked, "extra").message  # data is lost there


def test_a_finding_goes_by_its_kind_whatever_words_its_message_holds(root, modalities):
    (root / "a" / "archives").mkdir()
    (root / "a" / "archives" / "all files lie in.bmp").write_bytes(b"")
    (finding,) = found(check(root, modalities), "extra", "note")
    assert "archives/all files lie in.bmp" in finding.message


def test_every_shard_that_cannot_be_trusted_is_named_and_the_others_are_read(tmp_path, modalities):
    write_data(tmp_path, modalities, NAMES, tar=True, shard_size=4)
    shards = sorted((tmp_path / "words").glob("*.tar"))
    shards[0].write_bytes(shards[0].read_bytes()[:700])
    shutil.copy(shards[2], tmp_path / "words" / "x.tar")
    checked = check(tmp_path, modalities)
    messages = [finding.message for finding in found(checked, "unreadable")]
    assert len(messages) == 2
    assert "shard-00000.tar: truncated" in messages[0]
    assert "x.tar: 2 of its samples, such as 0008, are in" in messages[1]
    assert checked.parts[1].survey.statistics["words"].samples == 2


def test_every_shard_of_all_modalities_that_cannot_be_trusted_is_named_and_the_others_are_read(tmp_path, modalities):
    write_data(tmp_path / "words-alone", {"words": modalities["words"]}, NAMES[8:])
    shutil.move(tmp_path / "words-alone/words", tmp_path / "words")
    for number in range(4):
        names = NAMES[2 * number : 2 * number + 2]
        write_tar(tmp_path / f"{number}.tar", {f"{name}.words.txt": b"red ball\n" for name in names})
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:700])
    shutil.copy(tmp_path / "2.tar", tmp_path / "x.tar")
    checked = check(tmp_path, {"words": modalities["words"]})
    first, second = (finding.message for finding in found(checked, "unreadable"))
    assert "1.tar: truncated" in first
    assert "sample '0004' is in both" in second
    assert "x.tar" in second
    assert [part.survey.statistics["words"].samples for part in checked.parts] == [6, 2]


@pytest.mark.parametrize("damaged", [False, True])
def test_what_is_left_out_of_shards_of_all_modalities_is_a_note(tmp_path, modalities, damaged):
    write_tar(tmp_path / "0.tar", {f"{name}.words.txt": b"red ball\n" for name in NAMES} | {"0000.json": b"{}"})
    if damaged:
        (tmp_path / "1.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:700])
    checked = check(tmp_path, {"words": modalities["words"]})
    left_out = f"{tmp_path}: left out members of no modality that takes part: 1, such as 0.tar:0000.json"
    assert the(checked, "extra", "note").message == left_out
    assert bool(found(checked, "unreadable")) == damaged


def test_a_sample_both_loose_and_in_a_shard_is_a_note(root, modalities):
    write_tar(root / "words" / "s.tar", {"0001.txt": b"red ball\n"})
    assert "both loose and in a shard: 1" in the(check(root, modalities), "duplicated", "note").message


def test_names_that_almost_match_are_a_problem(root, modalities):
    (root / "b" / "0001.npy").rename(root / "b" / "1.npy")
    assert all("leading zeros" in one.message for one in found(check(root, modalities), "misnamed"))
    assert len(found(check(root, modalities), "misnamed")) == 2  # beside a, and beside words


def test_sequences_that_are_cut_are_counted_in_tokens(root, modalities):
    (root / "words" / "0001.txt").write_text("red " * 30 + "\nblue\n")
    checked = check(root, modalities, tokenizers={"words": fake_tokenizers(modalities)["words"]})
    assert the(checked, "truncated", "note").listed.items == ["0001"]
    lengths = checked.parts[0].to_json()["modalities"]["words"]["tokens"]
    assert (lengths["longest"], lengths["most"]) == (31, 12)
    assert lengths["truncated"] == pytest.approx(1 / lengths["texts"])


def test_a_seeded_sample_is_read_and_the_check_says_so(root, modalities):
    checked = check(root, modalities, samples=3, seed=1)
    assert not checked.complete
    assert [len(part.read) for part in checked.parts] == [3, 2]
    assert checked.parts[0].names_read == check(root, modalities, samples=3, seed=1).parts[0].names_read
    assert checked.parts[0].names_read != check(root, modalities, samples=3, seed=2).parts[0].names_read
    assert checked.parts[0].to_json()["samples"] == 8


def test_json_lists_everything_that_is_told(root, modalities):
    (root / "a" / "0003.npy").write_bytes(b"damaged")
    checked = check(root, modalities)
    document = json.loads(json.dumps(checked.to_json(), allow_nan=False))
    assert document["ok"] is False
    assert [f["kind"] for f in document["findings"]] == [f.kind for f in checked.findings]
    part = document["parts"][0]
    assert set(part["modalities"]) == set(modalities)
    assert {"bytes", "width", "height", "sizes", "arrays", "values"} <= part["modalities"]["a"].keys()
    assert len(part["modalities"]["b"]["classes"]) == CLASSES
    assert sum(one["share"] for one in part["modalities"]["b"]["classes"]) == pytest.approx(1)


class Endless:
    """A source of any number of files, made when they are read."""

    notes = ()

    def __init__(self, content):
        self.content = content

    def files(self, name):
        return {"npy": self.content}

    def where(self, name):
        return name


def test_memory_does_not_grow_with_the_number_of_files_but_for_their_rows():
    modalities = fake_modalities(["a"])
    content = modalities["a"].example_samples(1, 0)[0]["npy"]
    reader = Reader({"a": Endless(content)}, {"a": ["a"]}, modalities, {})

    def peak(samples):
        names, present = [str(k) for k in range(samples)], {"a": np.ones(samples, bool)}
        tracemalloc.start()
        survey(reader, names, present)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(64)  # what is imported and cached once
    few, many, garbage = peak(100), peak(800), 200_000
    assert many - few < 700 * COLUMNS.itemsize + garbage < 700 * len(content) / 5


def test_moments_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, (2, 1000))
    values[1, ::7] = np.nan
    whole = Moments(2)
    for part in np.split(values, [10, 400], axis=1):
        whole.add(part)
    assert whole.mean == pytest.approx(np.nanmean(values, 1))
    assert whole.deviation == pytest.approx(np.nanstd(values, 1))
    assert whole.gaps.tolist() == [0, 143]
    assert whole.low == pytest.approx(np.nanmin(values, 1))

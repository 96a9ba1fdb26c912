"""Token shards hold what the tokenizer gives, are made once, and are never mixed up."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fourm_engine.data import bad_files
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.index import Index
from fourm_engine.data.tokens.shards import ShardFile
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.data.views import view_of
from tests.fakes import LevelsTokenizer, fake_modalities, fake_tokenizers, sample_names, write_data
from tests.tokenized import Tokens

MODALITIES = fake_modalities()
TOKENIZERS = fake_tokenizers(MODALITIES)
CONFIG = DataConfig(shard_size=4, views=3, augment=True)


@pytest.fixture
def root(tmp_path):
    names = {"a": sample_names(10), "b": sample_names(8, start=2), "words": sample_names(3)}
    write_data(tmp_path / "raw", MODALITIES, names)
    return tmp_path


def run(root, config=CONFIG, tokenizers=TOKENIZERS, modalities=MODALITIES, out="tokens", split=None, **options):
    data = AlignedData(root / "raw", modalities, split, on_error=config.on_error)
    return tokenize_split(data, root / out, tokenizers, config, **options)


def read(path):
    """All that a shard holds."""
    return {key: column.tolist() for key, column in load_file(path).items()}, ShardFile(path).metadata


def content_of(folder):
    """Of all files: the path, what the tensors hold, the metadata."""
    return [(p.relative_to(folder), *read(p)) for p in sorted(folder.rglob("*.safetensors"))]


def in_a_process(work, kill_after=None):
    """Whether `work` ends well in a process of its own, which is killed after some seconds where they are given."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


def snapshot(root):
    return {p: p.stat().st_mtime_ns for p in (root / "tokens").rglob("*.safetensors")}


def test_the_shards_hold_the_tokens_of_every_view(root):
    report = run(root)
    assert report.samples == 10
    assert report.counts == {"a": 10, "b": 8, "words": 3}
    assert (report.written, report.shards) == (9, 9)
    assert not report.bad
    data, tokens = AlignedData(root / "raw", MODALITIES), Tokens(root / "tokens")
    assert tokens.names() == data.names
    for modality, tokenizer in TOKENIZERS.items():
        assert tokens.names(modality) == [name for name in data.names if modality in data.has(name)]
        assert tokens.fingerprints(modality) == {tokenizer.fingerprint}
        for name in tokens.names(modality):
            for number in range(3):
                view = view_of(MODALITIES[modality].spec, tokens.views.get(name, number), number)
                expected = tokenizer.encode([data.array(name, modality, view)])[0]
                assert tokens.ids(modality, name, number).tolist() == expected.tolist()
                assert tokens.ids(modality, name, number).dtype == np.int64


def test_running_again_does_nothing_and_an_interrupted_run_goes_on(root):
    first = run(root)
    before = snapshot(root)
    again = run(root)
    assert (again.written, again.shards, again.encoded) == (0, 9, 0)
    assert (again.counts, again.samples) == (first.counts, first.samples)
    assert snapshot(root) == before
    gone = root / "tokens/b/shard-00001.safetensors"
    content = read(gone)
    gone.unlink()
    assert run(root).written == 1
    assert read(gone) == content
    assert {p for p, t in snapshot(root).items() if before[p] != t} == {gone}


def test_nothing_but_whole_shards_is_left_behind(root):
    run(root)
    assert not [p for p in (root / "tokens").rglob("*") if p.is_file() and p.name.startswith(".")]


def test_a_run_killed_at_any_moment_goes_on_to_the_same_shards(root):
    whole = root / "whole"
    run(root, out="whole")
    rng = np.random.default_rng(0)

    class Slow(LevelsTokenizer):
        def encode(self, arrays):
            time.sleep(0.01)
            return super().encode(arrays)

    slow = {**TOKENIZERS, "a": Slow([MODALITIES["a"].spec])}
    kills, seconds = 0, 0.02
    while not in_a_process(lambda: run(root, tokenizers=slow), kill_after=rng.uniform(0, seconds)):
        kills, seconds = kills + 1, seconds * 1.2  # so that it ends, however slow the machine is
        for path in (root / "tokens").rglob("shard-*.safetensors"):  # whatever stands there is whole
            assert ShardFile(path).metadata["views"] == "3"
    assert kills >= 3
    assert content_of(root / "tokens") == content_of(whole)


@pytest.mark.parametrize("moment", ["written in part", "whole but not renamed"])
@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_kill_while_a_shard_is_written_leaves_no_broken_one_and_no_rest(root, monkeypatch, moment, number):
    count = 0

    rename = os.replace

    def rename_or_die(temporary, path):
        nonlocal count
        if count == number:
            if moment == "written in part":
                Path(temporary).write_bytes(Path(temporary).read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        rename(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename_or_die)
        assert not in_a_process(lambda: run(root))
    files = [p for p in (root / "tokens").rglob("*") if p.is_file()]
    assert len([p for p in files if not p.name.startswith(".")]) == number
    assert len(files) == number + 1
    report = run(root)
    assert report.shards == 9
    assert not [p for p in (root / "tokens").rglob("*") if p.name.startswith(".")]


def test_shards_may_be_read_by_whoever_may_read_new_files(root):
    run(root)
    (root / "new").touch()
    modes = {p.stat().st_mode for p in (root / "tokens").rglob("shard-*.safetensors")}
    assert modes == {(root / "new").stat().st_mode}


def test_what_another_process_is_writing_is_left_alone(root):
    other = root / "tokens/a/.shard-00001.safetensors.99.part"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"half")
    run(root, rank=0, world=2)
    assert other.exists()
    run(root, rank=1, world=2)
    assert not other.exists()


@pytest.mark.parametrize("tar", [False, True])
def test_folders_and_shards_of_raw_files_give_the_same_tokens(tmp_path, tar):
    write_data(tmp_path / "raw", MODALITIES, sample_names(9), tar=tar)
    run(tmp_path)
    tokens = Tokens(tmp_path / "tokens")
    data = AlignedData(tmp_path / "raw", MODALITIES)
    view = tokens.views.get("0008", 1)["image"]
    assert len(tokens.names("a")) == 9
    assert tokens.ids("a", "0008", 1).tolist() == TOKENIZERS["a"].encode([data.array("0008", "a", view)])[0].tolist()


def test_all_modalities_of_a_sample_are_seen_through_the_crop_that_is_recorded_once(root):
    run(root)
    views = Tokens(root / "tokens").views
    assert views.groups == ["image"]
    seen = [views.get("0005", number)["image"] for number in range(3)]
    assert len({(v.top, v.left, v.height, v.flip) for v in seen}) == 3
    recorded = load_file(root / "tokens/_views/shard-00001.safetensors")["digest.image"]
    for modality in ("a", "b"):
        shard = load_file(root / f"tokens/{modality}/shard-00001.safetensors")
        assert shard["digest"].all()
        assert (shard["view"] == recorded).all()


def test_a_modality_added_later_sees_the_recorded_views(root):
    some = {name: MODALITIES[name] for name in ("a", "words")}
    run(root, modalities=some)
    views = (root / "tokens/_views/shard-00000.safetensors").read_bytes()
    assert run(root).written == 3
    assert (root / "tokens/_views/shard-00000.safetensors").read_bytes() == views


def test_shards_of_another_tokenizer_are_an_error_that_names_both(root):
    run(root)

    class Other(LevelsTokenizer):
        salt = "-refitted"

    with pytest.raises(ValueError, match=r"made by tokenizer fake_levels, but .* is fake_levels-refitted; remove"):
        run(root, tokenizers={**TOKENIZERS, "a": Other([MODALITIES["a"].spec])})


def test_other_crops_than_the_recorded_are_an_error(root):
    run(root)
    for config in (CONFIG.model_copy(update={"views": 2}), CONFIG.model_copy(update={"flip": 0.0})):
        with pytest.raises(ValueError, match=r"restore data\.augment"):
            run(root, config)
    with pytest.raises(ValueError, match=r"restore data\.augment"):
        run(root, seed=1)


def test_samples_that_come_later_are_added_and_other_shards_stay(root):
    run(root)
    before = snapshot(root)
    write_data(root / "raw", fake_modalities(["words"]), sample_names(2, start=10))
    report = run(root)
    assert report.counts == {"a": 10, "b": 8, "words": 5}
    changed = {p.name for p, t in snapshot(root).items() if before.get(p) != t}
    assert changed == {"shard-00003.safetensors"}


def test_another_shard_size_is_that_of_new_shards_alone(root):
    run(root)
    before = snapshot(root)
    write_data(root / "raw", MODALITIES, sample_names(5, start=20))
    assert run(root, CONFIG.model_copy(update={"shard_size": 2})).modalities["a"].written == 3
    assert {p: snapshot(root)[p] for p in before} == before


def test_validation_has_one_view_the_centre_crop(root):
    run(root, training=False)
    views = Tokens(root / "tokens").views
    assert views.views == 1
    assert views.get("0000", 0)["image"].left == 0.125


def test_unusable_files_are_left_out_reported_and_still_known_when_run_again(root, monkeypatch):
    (root / "raw/a/0003.npy").write_bytes(b"rubbish")
    (root / "raw/b/0005.npy").write_bytes(b"rubbish")
    for _ in range(2):
        report = run(root)
        assert report.counts == {"a": 9, "b": 7, "words": 3}
        assert {name: tally.left_out for name, tally in report.modalities.items()} == {"a": 1, "b": 1, "words": 0}
        assert any("a/0003.npy: a: truncated" in line for line in report.bad)
        assert report.unnamed == []  # both were named when they were met
    monkeypatch.setattr(bad_files, "MAX_WARNINGS", 1)
    assert run(root).unnamed == [line for line in report.bad if "b/0005.npy" in line]
    assert "0003" not in Tokens(root / "tokens").names("a")
    assert "0003" in Tokens(root / "tokens").names("b")


def test_unusable_files_end_the_run_if_so_configured(root):
    (root / "raw/b/0005.npy").write_bytes(b"rubbish")
    with pytest.raises(BadFile, match=r"b/0005\.npy: b: truncated"):
        run(root, CONFIG.model_copy(update={"on_error": "raise"}))


def test_processes_share_the_shards(root):
    reports = [run(root, rank=rank, world=2) for rank in range(2)]
    assert [r.samples for r in reports] == [6, 4]
    run(root, out="alone")
    assert content_of(root / "tokens") == content_of(root / "alone")
    assert Index.load(root / "tokens") is not None  # by the one that came last


def test_progress_counts_what_is_left_to_the_end(root):
    for gone, left in ((None, 21), ("a/shard-00001", 4), ("b/shard-00002", 2)):
        if gone:
            (root / f"tokens/{gone}.safetensors").unlink()
        calls = []
        run(root, progress=lambda done, total, calls=calls: calls.append((done, total)))
        assert calls[-1] == (left, left)
        assert calls == sorted(set(calls))


def test_tokens_that_do_not_fit_the_spec_are_an_error(root):
    class Wrong(LevelsTokenizer):
        def encode(self, arrays):
            return [ids + 1000 for ids in super().encode(arrays)]

    class Short(LevelsTokenizer):
        def encode(self, arrays):
            return [ids[1:] for ids in super().encode(arrays)]

    for kind, message in ((Wrong, "outside its space of 16"), (Short, "15 ids a sample, not 16")):
        with pytest.raises(ValueError, match=message):
            run(root, tokenizers={**TOKENIZERS, "a": kind([MODALITIES["a"].spec])})


def test_a_missing_tokenizer_is_named(root):
    with pytest.raises(ValueError, match="no tokenizer for b; run `fourm tokenizer fit`"):
        run(root, tokenizers={k: v for k, v in TOKENIZERS.items() if k != "b"})


def test_a_damaged_shard_is_named(root):
    run(root)
    path = root / "tokens/a/shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"a/shard-00001\.safetensors: damaged"):
        Tokens(root / "tokens")


def test_readers_can_be_sent_to_another_process(root):
    run(root)
    tokens = Tokens(root / "tokens")
    ids = tokens.ids("a", "0005", 2)
    assert pickle.loads(pickle.dumps(tokens)).ids("a", "0005", 2).tolist() == ids.tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(root, workers):
    (damaged,) = (root / "raw/a").rglob("0003.*")
    damaged.write_bytes(b"damaged")
    one = run(root, out="one")
    many = run(root, CONFIG.model_copy(update={"workers": workers}), out="many")
    assert content_of(root / "one") == content_of(root / "many")
    assert (one.bad, one.modalities) == (many.bad, many.modalities)
    assert len(one.bad) == 1


def test_an_error_of_a_worker_is_the_one_line_that_it_is_without(root, monkeypatch):
    def gone(self, name, modality):
        raise OSError(5, "Input/output error", f"{modality}/{name}")

    monkeypatch.setattr(AlignedData, "files", gone)
    said = []
    for workers in (0, 2):
        with pytest.raises(OSError, match="Input/output error") as caught:
            run(root, CONFIG.model_copy(update={"workers": workers}))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not list((root / "tokens").rglob("*.safetensors"))


def test_a_file_is_read_once_whatever_it_serves(root, monkeypatch):
    read, value = Counter(), AlignedData.value

    def counting(self, name, modality, files=None):
        read[name, modality] += 1
        return value(self, name, modality, files)

    monkeypatch.setattr(AlignedData, "value", counting)
    run(root)
    assert len(read) == 21
    assert sum(read.values()) == 21 + 3  # at first, whether any file of each modality can be used

"""Labelling: aligned by name, resumable, and nothing half-written."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.label import Step, label, plan
from fourm_engine.data.raw.local_sources import open_source
from fourm_engine.modalities import Modalities
from fourm_plugins import Labeller, SampleError
from fourm_plugins.discovery import PluginError
from fourm_plugins.manager import Plugin
from tests.fakes import fake_modalities, sample_names, write_data, write_tar


class Threshold(Labeller):
    """Class 1 where a picture is bright; remembers how much it was asked."""

    def __init__(self):
        self.asked = 0

    def label(self, values):
        self.asked += len(values)
        return [(value[..., 0] > 0.5).astype(np.int64) for value in values]


@pytest.fixture(params=[False, True], ids=["folder", "tar"])
def data(request, tmp_path):
    """(root, source, target) with ten pictures and no class maps."""
    modalities = fake_modalities(["a", "b"])
    write_data(tmp_path, {"a": modalities["a"]}, {"a": sample_names(10)}, tar=request.param)
    return tmp_path, modalities["a"], modalities["b"]


def labels(root, target):
    source = open_source(root, target.spec.source, target.spec.extensions)
    return {name: target.read(source.files(name)) for name in source.names}


def test_every_sample_gets_the_label_of_its_own_picture(data):
    root, source, target = data
    assert label(root, source, target, Threshold()).labelled == 10
    pictures = open_source(root, source.spec.source, source.spec.extensions)
    found = labels(root, target)
    assert list(found) == pictures.names
    for name, value in found.items():
        assert (value == (source.read(pictures.files(name))[..., 0] > 0.5)).all()


def test_what_exists_is_kept_and_not_made_again(data):
    root, source, target = data
    label(root, source, target, Threshold())
    labeller = Threshold()
    report = label(root, source, target, labeller)
    assert (report.labelled, report.kept, labeller.asked) == (0, 10, 0)


def test_a_run_that_fails_leaves_nothing_half_written_and_the_next_one_completes_it(data):
    root, source, target = data

    class Failing(Threshold):
        def label(self, values):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        label(root, source, target, Failing())
    assert not list((root / target.spec.source).rglob("*.*"))
    assert label(root, source, target, Threshold()).labelled == 10


def test_processes_share_the_work_without_overlap(data):
    root, source, target = data
    done = [label(root, source, target, Threshold(), rank=rank, world=2).labelled for rank in range(2)]
    assert sum(done) == 10
    assert len(labels(root, target)) == 10


def test_an_unusable_picture_is_named_and_skipped_or_fatal(tmp_path):
    modalities = fake_modalities(["a", "b"])
    source, target = modalities["a"], modalities["b"]
    write_data(tmp_path, {"a": source}, {"a": sample_names(3)}, tar=False)
    bad = next((tmp_path / "a").rglob("*.npy"))
    bad.write_bytes(bad.read_bytes()[:20])
    with pytest.raises(BadFile, match=bad.name):
        label(tmp_path, source, target, Threshold(), on_error="raise")
    report = label(tmp_path, source, target, Threshold())
    assert report.labelled == 2
    assert [b.where for b in report.bad] == [str(bad)]


def test_workers_change_no_byte_of_the_labels_and_name_the_same_files(data):
    root, source, target = data
    if not (plain := not list((root / "a").glob("*.tar"))):
        write_tar(root / "a" / "more.tar", {"x.npy": b"no array", "y.npy": b"neither"})
    else:
        (root / "a" / "x.npy").write_bytes(b"no array")
    folder, found = root / target.spec.source, []
    for workers in (0, 2):
        report = label(root, source, target, Threshold(), workers=workers)
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        found.append((report.labelled, [str(bad) for bad in report.bad], files))
        shutil.rmtree(folder)
    assert found[0] == found[1]
    assert (found[0][0], len(found[0][1])) == (10, 1 if plain else 2)


def test_more_samples_than_a_batch_keep_their_own_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("fourm_engine.data.raw.label.BATCH", 4)
    monkeypatch.setattr("fourm_engine.data.raw.label.PART", 3)
    modalities = fake_modalities(["a", "b"])
    write_data(tmp_path, {"a": modalities["a"]}, sample_names(11), tar=True)
    assert label(tmp_path, modalities["a"], modalities["b"], Threshold(), workers=2).labelled == 11
    pictures = open_source(tmp_path, "a", modalities["a"].spec.extensions)
    for name, value in labels(tmp_path, modalities["b"]).items():
        assert (value == (modalities["a"].read(pictures.files(name))[..., 0] > 0.5)).all()


def test_a_label_that_cannot_be_written_ends_the_run_without_a_shard_that_lacks_it(data, monkeypatch):
    root, source, target = data
    monkeypatch.setattr("fourm_engine.data.raw.label.BATCH", 2)
    written = target.write

    def once(value, count=[0]):  # noqa: B006
        count[0] += 1
        if count[0] == 3:
            raise RuntimeError("no room")
        return written(value)

    monkeypatch.setattr(target, "write", once)
    with pytest.raises(PluginError, match=r"write of b \(.*\) failed with RuntimeError: no room"):
        label(root, source, target, Threshold())
    there = labels(root, target) if list((root / target.spec.source).rglob("*.*")) else {}
    assert len(there) < 10
    assert not list((root / target.spec.source).rglob("*.tar"))


def test_a_source_that_is_not_there_is_an_error(tmp_path):
    modalities = fake_modalities(["a", "b"])
    with pytest.raises(ValueError, match="no such folder; a is what b is made from"):
        label(tmp_path, modalities["a"], modalities["b"], Threshold())


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    modalities = fake_modalities(["a", "b"])
    write_data(tmp_path, {"a": modalities["a"]}, sample_names(2))
    report = label(tmp_path, modalities["a"], modalities["b"], Threshold(), max_bytes=100)
    assert report.labelled == 0
    assert "more than the 100 allowed" in report.bad[0].reason


def test_a_kill_while_labels_are_written_leaves_nothing_broken_and_the_next_run_cleans_up(data):
    root, source, target = data
    rename = os.replace

    def rename_or_die(temporary, path, *, count=[0]):  # noqa: B006
        count[0] += 1
        if count[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(temporary, path)

    child = os.fork()
    if child == 0:
        os.replace = rename_or_die
        label(root, source, target, Threshold())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    folder = root / target.spec.source
    files = [p.name for p in folder.rglob("*") if p.is_file()]
    assert len([name for name in files if name.endswith(".part")]) == 1
    report = label(root, source, target, Threshold())
    assert (report.labelled + report.kept, report.kept > 0) == (10, True)
    assert not [p for p in folder.rglob(".*") if p.is_file()]
    assert len(labels(root, target)) == 10


def test_a_value_that_cannot_be_labelled_is_named_and_the_others_are_made(data):
    root, source, target = data

    class Choosy(Threshold):
        def label(self, values):
            _, *others = super().label(values)
            return [SampleError("too dark"), *others]

    report = label(root, source, target, Choosy())
    assert 0 < len(report.bad) < 10
    assert report.labelled == 10 - len(report.bad)
    assert report.bad[0].reason == "too dark"
    assert len(labels(root, target)) == report.labelled


def test_labels_that_would_be_hidden_or_stand_twice_are_refused(data):
    root, source, target = data
    tar = any((root / source.spec.source).glob("*.tar"))
    folder = root / target.spec.source
    write_data(root, {"b": target}, {"b": sample_names(3)}, tar=not tar)
    with pytest.raises(ValueError, match="move it away"):
        label(root, source, target, Threshold())
    for path in folder.iterdir():
        path.unlink()
    if tar:
        write_tar(folder / "other.tar", {"0000.npy": target.example_samples(1, 0)[0]["npy"]})
        with pytest.raises(ValueError, match=r"other\.tar is no shard of what it is made from"):
            label(root, source, target, Threshold())


def test_a_second_step_goes_on_from_what_this_process_made_in_the_first(data):
    """Of two processes, one is far ahead: it finds its own labels, and needs none of the other's."""
    root, source, target = data
    again = fake_modalities(["b"])["b"]
    third = type(again)("c")
    for rank in (1, 0):
        label(root, source, target, Threshold(), rank=rank, world=2)
        report = label(root, target, third, Copy(), shares=source, rank=rank, world=2)
        assert report.lacking == 0
    assert len(labels(root, third)) == 10
    assert {n: v.tolist() for n, v in labels(root, third).items()} == {
        n: v.tolist() for n, v in labels(root, target).items()
    }


class Copy(Labeller):
    def label(self, values):
        return list(values)


def test_progress_counts_what_is_left(data):
    root, source, target = data
    calls = []
    label(root, source, target, Threshold(), progress=lambda *counts: calls.append(counts))
    assert calls[-1] == (10, 10)
    label(root, source, target, Threshold(), progress=lambda *counts: pytest.fail("nothing was left"))


def modalities(**label_sources):
    """Modalities of plugins of their own names, each made from the ones given."""
    made = fake_modalities(["a", "b", "words"])
    for name, sources in label_sources.items():
        made[name].label_sources = lambda model, sources=sources: sources(model) if callable(sources) else sources
    plugins = {name: Plugin("modality", name, "", "fakes", "1", "") for name in made}
    return Modalities(made.values(), plugins)


def test_targets_are_made_in_the_order_in_which_they_need_one_another():
    some = modalities(b=("words",), words=("a",))
    assert plan(some, "a", ["b", "words"], {}) == [Step("words", "a"), Step("b", "words")]
    assert plan(some, "words", ["b"], {}) == [Step("b", "words")]
    by_model = modalities(b=lambda model: ("a",) if model else ("words",), words=("a",))
    assert plan(by_model, "a", ["b", "words"], {"b": "x"}) == [Step("b", "a"), Step("words", "a")]


def test_what_cannot_be_made_is_said_before_anything_is():
    some = modalities(b=("words",), words=("b",))
    for targets, models, message in (
        (["b"], {}, "b is made from words, not a; name that with --from, or add it to --to"),
        (["b", "words"], {}, "b, words would be made from one another"),
        (["c"], {}, "no modality 'c' takes part; there are a, b, words"),
        (["a"], {}, "leave it out of --to"),
        (["b"], {"words": "x"}, "a model for words, which is not among --to"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(some, "a", targets, models)
    with pytest.raises(ValueError, match="b has no labeller"):
        plan(modalities(), "a", ["b"], {})


def test_shards_that_hold_all_modalities_are_labelled_shard_by_shard(tmp_path):
    modalities = fake_modalities(["a", "b"])
    write_data(tmp_path / "loose", {"a": modalities["a"]}, {"a": sample_names(6)})
    source, target = modalities["a"], modalities["b"]
    pictures = open_source(tmp_path / "loose", source.spec.source, source.spec.extensions)
    for shard, names in (("shard-0.tar", pictures.names[:4]), ("shard-1.tar", pictures.names[4:])):
        files = {f"{name}.a.{e}": content for name in names for e, content in pictures.files(name).items()}
        write_tar(tmp_path / "data" / shard, files)
    root = tmp_path / "data"
    assert label(root, source, target, Threshold()).labelled == 6
    assert sorted(path.name for path in (root / "b").glob("*.tar")) == ["shard-0.tar", "shard-1.tar"]
    assert list(labels(root, target)) == pictures.names
    again = label(root, source, target, Threshold())
    assert (again.labelled, again.kept) == (0, 6)
    data = AlignedData(root, modalities)
    assert data.counts == {"a": 6, "b": 6}

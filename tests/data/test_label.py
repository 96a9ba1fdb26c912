"""Labelling: aligned by name, resumable, and nothing half-written."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_engine.data.aligned import BadFile
from fourm_engine.data.label import label
from fourm_engine.data.source import open_source
from fourm_plugins import Labeller
from tests.fakes import fake_modalities, sample_names, write_data


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

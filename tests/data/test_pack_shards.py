"""Packing and unpacking keep every file of every sample, whenever they are stopped."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.pack import FILE, pack, unpack
from fourm_engine.lock import Busy, at_work
from tests.data.indexing import MODALITIES, expected, held, write_layout
from tests.killing import ends
from tests.stopping import Stop, stopping_after

SPECS = [modality.spec for modality in MODALITIES.values()]
DATA = {f"day/{i:02d}": {"a": b"a%d" % i, **({"words": b"w%d" % i} if i % 2 else {})} for i in range(7)}
NAME = st.text("abé-_0", min_size=1, max_size=4)
SAMPLES = st.dictionaries(
    st.one_of(NAME, st.builds("day/{}.{}".format, NAME, NAME)),
    st.dictionaries(st.sampled_from(["a", "b", "words"]), st.binary(max_size=9), min_size=1),
    min_size=1,
    max_size=8,
)


def packed(root, out, samples_per_shard=3, **options):
    return pack(open_catalogue(root, SPECS, **options), out, samples_per_shard=samples_per_shard)


def unpacked(root, out):
    return unpack(open_catalogue(root, SPECS), out)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAMPLES, st.sampled_from(["loose", "tars", "webdataset", "mixed"]), st.integers(1, 4))
def test_there_and_back_is_the_same(tmp_path_factory, data, layout, samples_per_shard):
    root = tmp_path_factory.mktemp("data")
    write_layout(root / "data", data, layout)
    try:
        wanted = held(root / "data")
    except ValueError:
        return  # no two modalities pair up, which readers refuse
    packed(root / "data", root / "packed", samples_per_shard)
    assert held(root / "packed") == wanted == expected(data)
    assert len(list((root / "packed").glob("*.tar"))) == -(-len(data) // samples_per_shard)
    unpacked(root / "packed", root / "unpacked")
    assert held(root / "unpacked") == wanted


@pytest.mark.parametrize("how", [packed, unpacked])
def test_a_stop_at_every_step_is_continued_to_the_very_same(tmp_path, how):
    write_layout(tmp_path / "data", DATA, "mixed")
    how(tmp_path / "data", tmp_path / "once")
    stops = 0
    for stop_at in range(40):
        try:
            with stopping_after(stop_at % 3):
                how(tmp_path / "data", tmp_path / "out")
            break
        except Stop:
            stops += 1
    assert stops > 2
    report = how(tmp_path / "data", tmp_path / "out")
    assert (report.samples, report.kept) == (0, 7)
    assert tree(tmp_path / "out") == tree(tmp_path / "once")


@pytest.mark.slow
@pytest.mark.parametrize("how", [packed, unpacked])
def test_fifty_kills_are_continued_to_the_very_same(tmp_path, how):
    write_layout(tmp_path / "data", {f"{i:03d}": {"a": b"a%d" % i, "words": b"w"} for i in range(90)}, "mixed")
    began = time.monotonic()
    assert ends(600, how, tmp_path / "data", tmp_path / "once")
    random, seconds, killed = np.random.default_rng(0), time.monotonic() - began, 0
    for _ in range(1000):
        if not ends(random.uniform(0, seconds), how, tmp_path / "data", tmp_path / "out"):
            killed += 1
            continue
        assert tree(tmp_path / "out") == tree(tmp_path / "once")
        if killed >= 50:
            return
        shutil.rmtree(tmp_path / "out")
    raise AssertionError(f"{killed} kills of 50")


def test_what_was_begun_with_other_data_or_settings_is_refused(tmp_path):
    write_layout(tmp_path / "data", DATA, "loose")
    packed(tmp_path / "data", tmp_path / "out")
    with pytest.raises(ValueError, match=r"out: was begun with other data or settings \(samples_per_shard\); choose"):
        packed(tmp_path / "data", tmp_path / "out", 4)
    (tmp_path / "data/a/new.npy").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"\(samples, names, sources\); choose another folder"):
        packed(tmp_path / "data", tmp_path / "out")
    (tmp_path / "out" / FILE).unlink()
    with pytest.raises(ValueError, match=r"out: holds shard-00000\.tar; choose a folder that is empty or new"):
        packed(tmp_path / "data", tmp_path / "out")
    with pytest.raises(ValueError, match="is the data itself"):
        packed(tmp_path / "data", tmp_path / "data")


def test_folders_of_other_modalities_may_stand_beside_what_is_unpacked(tmp_path):
    write_layout(tmp_path / "data", DATA, "loose")
    for folder in ("a", "depth"):
        (tmp_path / "out" / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match="out: holds a; choose a folder that is empty or new"):
        unpacked(tmp_path / "data", tmp_path / "out")
    (tmp_path / "out/a").rmdir()
    assert unpacked(tmp_path / "data", tmp_path / "out").samples == 7
    with pytest.raises(ValueError, match="choose another folder"):
        packed(tmp_path / "data", tmp_path / "out")


def test_files_are_not_unpacked_beside_the_shards_of_the_same_samples(tmp_path):
    write_layout(tmp_path / "data", DATA, "loose")
    packed(tmp_path / "data", tmp_path / "out")
    with pytest.raises(ValueError, match=r"begun with other data or settings \(samples_per_shard\)"):
        unpacked(tmp_path / "data", tmp_path / "out")


def test_a_file_that_cannot_be_used_is_named_and_the_others_are_packed(tmp_path):
    write_layout(tmp_path / "data", DATA, "loose")
    (tmp_path / "data/a/day/03.npy").write_bytes(b"too large")
    report = packed(tmp_path / "data", tmp_path / "out", max_bytes=4)
    assert [str(bad) for bad in report.bad] == [
        f"{tmp_path}/data/a/day/03.npy: a: 9 bytes, more than the 4 allowed; raise data.max_file_mb if this is meant"
    ]
    assert held(tmp_path / "out") == expected({**DATA, "day/03": {"words": b"w3"}})


def test_two_commands_do_not_write_one_folder(tmp_path):
    write_layout(tmp_path / "data", DATA, "loose")
    child = os.fork()
    if not child:
        with at_work(tmp_path / "out"):
            (tmp_path / "held").touch()
            while not (tmp_path / "done").exists():
                pass
        os._exit(0)
    while not (tmp_path / "held").exists():
        pass
    try:
        with pytest.raises(Busy, match="is at work here"):
            packed(tmp_path / "data", tmp_path / "out")
    finally:
        (tmp_path / "done").touch()
        os.waitpid(child, 0)
    assert packed(tmp_path / "data", tmp_path / "out").samples == 7

"""WebDataset shards: which member belongs to which modality, and data sets that mix them with other layouts."""

from __future__ import annotations

import os
import tarfile
from threading import Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw import file_bytes
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.available import with_data
from fourm_engine.data.raw.root import DataRoot
from fourm_engine.data.raw.sample_shards import Claim, Sorter
from fourm_engine.data.raw.write_shards import write_shard
from fourm_engine.modalities import Modalities
from tests.data.indexing import MODALITIES, expected, held, write_layout
from tests.fakes import write_tar

CLAIMS = [
    Claim("pictures", ("jpg", "png"), ("pictures", "pictures@pixels")),
    Claim("maps", ("png", "npy"), ("far",)),
    Claim("texts", ("txt", "text.json"), ("texts",)),
]


@pytest.mark.parametrize(
    ("path", "source", "sample", "extension"),
    [
        ("0001.pictures.jpg", "pictures", "0001", "jpg"),
        ("0001.pictures@pixels.jpg", "pictures", "0001", "jpg"),
        ("0001.far.png", "maps", "0001", "png"),  # by the name of the modality
        ("0001.MAPS.PNG", "maps", "0001", "png"),
        ("day1/0001.texts.text.json", "texts", "day1/0001", "text.json"),
        ("0001.jpg", "pictures", "0001", "jpg"),  # only pictures have it
        ("0001.npy", "maps", "0001", "npy"),
        ("a/b/0001.TXT", "texts", "a/b/0001", "txt"),
        ("0001.text.json", "texts", "0001", "text.json"),
        ("a.v1.maps.npy", "maps", "a.v1", "npy"),
        ("maps/0001.png", "maps", "0001", "png"),  # an archive of folders
        ("maps/day/a.b.png", "maps", "day/a.b", "png"),
        ("maps/0001.pictures.png", "pictures", "maps/0001", "png"),
        ("cafe\u0301.jpg", "pictures", "caf\u00e9", "jpg"),
    ],
)
def test_a_member_belongs_to_the_modality_that_its_name_says(path, source, sample, extension):
    member = Sorter(CLAIMS).sort(path)
    assert [CLAIMS[number].source for number in member.claims] == [source]
    assert (member.sample, member.extension) == (sample, extension)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("0001.png", "members that maps and pictures could be"),
        ("0001.v1.jpg", ""),  # WebDataset: the extension is v1.jpg
        ("0001.other.png", ""),
        ("maps/0001.jpg", ""),
        ("0001", ""),
        ("README.md", ""),
        ("0001.json", ""),
    ],
)
def test_a_member_that_is_unclear_or_nobodys_is_no_sample(path, why):
    assert Sorter(CLAIMS).sort(path) == why


def test_modalities_of_one_source_do_not_compete_for_an_extension():
    claims = [Claim("s", ("png",), ("x",)), Claim("s", ("png", "jpg"), ("y",))]
    assert Sorter(claims).sort("1.png").claims == (0, 1)


def test_what_is_left_out_of_a_shard_is_told_in_one_line_a_kind(tmp_path, caplog):
    write_tar(
        tmp_path / "0.tar",
        {"1.a.npy": b"1", "1.npy": b"?", "2.npy": b"?", "1.json": b"{}", "2.txt": b"words", "README.md": b""},
    )
    assert held(tmp_path) == expected({"1": {"a": b"1"}, "2": {"words": b"words"}})
    assert (
        f"{tmp_path}: left out members that a and b could be: 2, such as 0.tar:1.npy; name them as in 0001.a.npy, or "
        "list in modalities.select what they are" in caplog.messages
    )
    assert f"{tmp_path}: left out members of no modality that takes part: 1, such as 0.tar:1.json" in caplog.messages


def test_modalities_that_are_not_read_since_others_could_be_meant_are_told_with_the_remedy(tmp_path, caplog):
    write_tar(tmp_path / "0.tar", {"1.npy": b"?", "1.txt": b"words"})
    installed = Modalities(MODALITIES.values(), dict.fromkeys(MODALITIES))
    assert list(with_data(installed, [DataRoot(tmp_path, None)])) == ["words"]
    assert "could be: 1, such as 0.tar:1.npy; name them as in 0001.a.npy, or list in modalities.select" in caplog.text


NAME = st.text("abé-_0", min_size=1, max_size=4)
SAMPLES = st.dictionaries(
    st.one_of(NAME, st.builds("{}/{}.{}".format, st.just("day"), NAME, NAME)),
    st.dictionaries(st.sampled_from(["a", "b", "words"]), st.binary(max_size=9), min_size=1),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAMPLES, st.sampled_from(["webdataset", "mixed"]), st.integers(1, 3))
def test_any_samples_are_read_as_they_were_written(tmp_path_factory, data, layout, shards):
    root = tmp_path_factory.mktemp("data")
    data = {**data, "whole": {"a": b"1", "b": b"2", "words": b"3"}}  # where nothing pairs up, readers refuse
    write_layout(root, data, layout, shards=shards)
    assert held(root) == expected(data)


def test_the_package_reads_what_is_written_and_the_bytes_are_the_same_each_time(tmp_path):
    from webdataset.tariterators import tarfile_to_samples

    samples = [("day/1", {"a.npy": b"1", "words.txt": b"one"}), ("day/2", {"b.npy": b"2"})]
    write_shard(tmp_path / "shard-00000.tar", samples)
    write_shard(tmp_path / "again/0.tar", samples)
    assert (tmp_path / "shard-00000.tar").read_bytes() == (tmp_path / "again/0.tar").read_bytes()
    found = list(tarfile_to_samples()([{"url": str(tmp_path / "shard-00000.tar")}]))
    assert [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in found] == samples
    names = {name: {m.partition(".")[0]: c for m, c in files.items()} for name, files in samples}
    assert held(tmp_path / "shard-00000.tar") == expected(names)


def test_a_sample_in_two_shards_of_any_kind_is_an_error_that_names_both(tmp_path):
    write_tar(tmp_path / "0.tar", {"x.a.npy": b"1"})
    write_tar(tmp_path / "a/1.tar", {"x.npy": b"1"})
    with pytest.raises(ValueError, match=r"sample 'x' is in both .*a/1\.tar and .*0\.tar; remove one"):
        held(tmp_path)


def test_a_loose_file_wins_over_a_shard_and_this_is_said(tmp_path, caplog):
    write_tar(tmp_path / "0.tar", {"x.a.npy": b"old", "y.a.npy": b"y"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.npy").write_bytes(b"new")
    assert held(tmp_path) == expected({"x": {"a": b"new"}, "y": {"a": b"y"}})
    assert "samples both loose and in a shard: 1, such as" in caplog.text


def test_a_folder_without_files_does_not_hide_the_shards(tmp_path):
    write_tar(tmp_path / "0.tar", {"x.a.npy": b"1"})
    (tmp_path / "a").mkdir()
    assert held(tmp_path) == expected({"x": {"a": b"1"}})


@pytest.mark.parametrize("name", ["/etc/x.a.npy", "../x.a.npy"])
def test_members_that_point_out_of_a_shard_are_refused(tmp_path, name):
    write_tar(tmp_path / "0.tar", {"y.a.npy": b"", name: b""})
    with pytest.raises(ValueError, match=r"0\.tar: member '.*' points out of the archive"):
        held(tmp_path)


def test_damaged_shards_are_named_and_unusable_members_are_the_error_of_their_sample(tmp_path):
    link = tarfile.TarInfo("bad.a.npy")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    write_tar(tmp_path / "0.tar", {"big.a.npy": b"12345", "good.a.npy": b"1"}, [link])
    data = AlignedData(tmp_path, MODALITIES, max_bytes=4)
    assert data.files("good", "a") == {"npy": b"1"}
    with pytest.raises(BadFile, match=r"0\.tar:big\.a\.npy: a: 5 bytes, more than the 4 allowed"):
        data.files("big", "a")
    with pytest.raises(BadFile, match=r"0\.tar:bad\.a\.npy: a: a link to /etc/passwd"):
        data.files("bad", "a")
    path = tmp_path / "0.tar"
    path.write_bytes(path.read_bytes()[:1300])
    with pytest.raises(ValueError, match=r"0\.tar: truncated"):
        held(tmp_path)


def test_all_sources_of_a_process_share_few_open_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(file_bytes, "MAX_OPEN_SHARDS", 3)
    data = {f"{i}": {"a": b"a%d" % i, "b": b"b%d" % i} for i in range(12)}
    for layout in ("tars", "webdataset"):
        write_layout(tmp_path / layout, data, layout, shards=6)
        assert held(tmp_path / layout) == expected(data)
        assert len(file_bytes._open) <= 3


def test_a_source_that_is_given_up_in_the_midst_of_a_read_does_not_wait_for_it(tmp_path):
    """Garbage is collected at any moment, also in the thread that reads and holds the lock."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"x")
    descriptor = file_bytes._descriptor(path, file_bytes.stamp_of(path))
    with file_bytes._lock:
        thread = Thread(target=file_bytes.close_below, args=(tmp_path,), daemon=True)
        thread.start()
        thread.join(300)
        assert not thread.is_alive()
        assert os.fstat(descriptor)
    file_bytes.close_below(tmp_path / "other")
    assert path not in file_bytes._open


@pytest.mark.parametrize("layout", ["webdataset", "mixed"])
def test_splits_choose_among_the_samples_of_shards(tmp_path, layout):
    data = {f"{i}": {"a": b"%d" % i} for i in range(6)}
    write_layout(tmp_path, data, layout)
    (tmp_path / "splits.json").write_text('{"some": ["1", "4"]}')
    assert list(held(tmp_path, split="some")) == ["1", "4"]

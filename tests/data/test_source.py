"""Folders and tar shards give the same samples; what cannot be trusted is named."""

from __future__ import annotations

import os
import pickle
import tarfile

import pytest

from fourm_engine.data.source import FolderSource, TarSource, open_source
from fourm_plugins import SampleError
from tests.fakes import write_tar


def fill(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


FILES = {"x/1.png": b"one", "x/2.png": b"two", "3.png": b"three", "3.json": b"{}", "notes.md": b"no"}


@pytest.mark.parametrize("tar", [False, True])
def test_names_are_paths_without_extension_and_a_sample_may_have_several_files(tmp_path, tar):
    if tar:
        write_tar(tmp_path / "s/shard-00000.tar", {k: v for k, v in FILES.items() if k < "x"})
        write_tar(tmp_path / "s/shard-00001.tar", {f"./{k}": v for k, v in FILES.items() if k >= "x"})
    else:
        fill(tmp_path / "s", FILES)
    source = open_source(tmp_path, "s", ("png", "json"))
    assert isinstance(source, TarSource if tar else FolderSource)
    assert source.names == ["3", "x/1", "x/2"]
    assert source.files("3") == {"png": b"three", "json": b"{}"}
    assert source.files("x/2") == {"png": b"two"}
    assert "x/2.png" in source.where("x/2")


def test_the_longest_extension_counts_and_dots_may_be_part_of_a_name(tmp_path):
    fill(tmp_path / "s", {"a.v1.boxes.json": b"1", "b.JSON": b"2"})
    source = open_source(tmp_path, "s", ("json", "boxes.json"))
    assert source.names == ["a.v1", "b"]
    assert source.files("a.v1") == {"boxes.json": b"1"}
    assert source.files("b") == {"json": b"2"}


def test_a_missing_folder_is_no_source_and_an_empty_one_says_what_was_looked_for(tmp_path):
    assert open_source(tmp_path, "s", ("png",)) is None
    fill(tmp_path / "s", {"a.txt": b"", ".hidden.png": b""})
    with pytest.raises(ValueError, match=r"s: no file with extension png, jpg"):
        open_source(tmp_path, "s", ("png", "jpg"))


def test_one_sample_under_two_spellings_of_its_extension_is_an_error(tmp_path):
    fill(tmp_path / "s", {"a.png": b"", "a.PNG": b""})
    with pytest.raises(ValueError, match=r"one sample twice"):
        open_source(tmp_path, "s", ("png",))


@pytest.mark.parametrize("tar", [False, True])
def test_oversized_files_are_the_error_of_their_sample_alone(tmp_path, tar):
    files = {"a.png": b"12345678", "b.png": b"1234"}
    if tar:
        write_tar(tmp_path / "s/0.tar", files)
    else:
        fill(tmp_path / "s", files)
    source = open_source(tmp_path, "s", ("png",), max_bytes=4)
    assert source.files("b") == {"png": b"1234"}
    with pytest.raises(SampleError, match="8 bytes, more than the 4 allowed"):
        source.files("a")


@pytest.mark.parametrize("keep", [100, 600, 1024, 1300, 2048], ids=lambda n: f"{n} bytes")
def test_a_truncated_shard_is_named(tmp_path, keep):
    path = tmp_path / "s/shard-00007.tar"
    write_tar(path, {"a.png": b"x" * 100, "b.png": b"y" * 600})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"shard-00007\.tar: truncated") as error:
        open_source(tmp_path, "s", ("png",))
    assert "\n" not in str(error.value)


def test_damage_in_the_middle_of_a_shard_loses_nothing_silently(tmp_path):
    path = tmp_path / "s/0.tar"
    write_tar(path, {f"{i}.png": b"x" * 100 for i in range(4)})
    content = bytearray(path.read_bytes())
    content[2048 : 2048 + 512] = b"\xff" * 512  # the header of the third member
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"0\.tar: truncated"):
        open_source(tmp_path, "s", ("png",))


def test_a_compressed_or_other_file_named_tar_is_an_error(tmp_path):
    fill(tmp_path / "s", {"0.tar": b"\x1f\x8b" + b"0" * 2000})
    with pytest.raises(
        ValueError, match=r"0\.tar: no tar file but compressed by gzip, whatever its name says; unpack it"
    ):
        open_source(tmp_path, "s", ("png",))


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "x/../../a.png"])
def test_paths_out_of_the_archive_are_refused(tmp_path, name):
    write_tar(tmp_path / "s/0.tar", {"b.png": b"", name: b""})
    with pytest.raises(ValueError, match=r"0\.tar: member '.*a\.png' points out of the archive"):
        open_source(tmp_path, "s", ("png",))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_never_followed(tmp_path, kind):
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = kind, "/etc/passwd"
    write_tar(tmp_path / "s/0.tar", {"a.png": b"a"}, [link])
    source = open_source(tmp_path, "s", ("png",))
    assert source.files("a") == {"png": b"a"}
    with pytest.raises(SampleError, match="no regular file"):
        source.files("b")


def test_a_sample_in_two_shards_is_an_error_that_names_both(tmp_path):
    write_tar(tmp_path / "s/0.tar", {"a.png": b""})
    write_tar(tmp_path / "s/1.tar", {"a.png": b""})
    with pytest.raises(ValueError, match=r"'a' stands both in .*0\.tar and in .*1\.tar"):
        open_source(tmp_path, "s", ("png",))


def test_a_sample_twice_in_one_shard_is_an_error(tmp_path):
    write_tar(tmp_path / "s/0.tar", {"a.png": b"", "./a.png": b""})
    with pytest.raises(ValueError, match=r"0\.tar: sample 'a' holds two files \.png"):
        open_source(tmp_path, "s", ("png",))


def test_long_member_names_are_read(tmp_path):
    name = "x" * 90 + "/" + "y" * 150
    write_tar(tmp_path / "s/0.tar", {name + ".png": b"long", "b.png": b"b"})
    source = open_source(tmp_path, "s", ("png",))
    assert source.files(name) == {"png": b"long"}
    assert source.files("b") == {"png": b"b"}


def test_a_source_can_be_sent_to_another_process_and_keeps_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr("fourm_engine.data.tar.MAX_OPEN_SHARDS", 2)
    for i in range(5):
        write_tar(tmp_path / f"s/{i}.tar", {f"{i}.png": bytes([i])})
    source = open_source(tmp_path, "s", ("png",))
    for _ in range(2):
        assert [source.files(name)["png"] for name in source.names] == [bytes([i]) for i in range(5)]
        assert len(source._open) <= 2
    other = pickle.loads(pickle.dumps(source))
    assert other.files("3") == {"png": b"\x03"}


def test_a_shard_that_shrinks_while_in_use_is_reported(tmp_path):
    path = tmp_path / "s/0.tar"
    write_tar(path, {"a.png": b"x" * 1000})
    source = open_source(tmp_path, "s", ("png",))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(SampleError, match="the shard has changed since this run began"):
        source.files("a")


def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "s").mkdir()
    os.mkfifo(tmp_path / "s/a.png")
    with pytest.raises(SampleError, match="no regular file"):
        open_source(tmp_path, "s", ("png",)).files("a")

"""Folders and tar shards give the same samples; what cannot be trusted is named."""

from __future__ import annotations

import os
import pickle
import re
import tarfile

import pytest

from fourm_engine.data.raw import file_bytes
from fourm_engine.data.raw.folder import FolderSource
from fourm_engine.data.raw.local_sources import LocalSources, open_source
from fourm_engine.data.raw.sample_shards import Claim
from fourm_engine.data.raw.tar import TarSource
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
def test_links_out_of_a_shard_and_devices_are_never_followed(tmp_path, kind):
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = kind, "/etc/passwd"
    write_tar(tmp_path / "s/0.tar", {"a.png": b"a"}, [link])
    source = open_source(tmp_path, "s", ("png",))
    assert source.files("a") == {"png": b"a"}
    with pytest.raises(SampleError, match="no regular file"):
        source.files("b")


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_within_a_shard_are_read_as_they_are_in_a_folder(tmp_path):
    """GNU tar stores the second name of a file with two names as a link."""
    links = [link("x/b.png", "./a.png", tarfile.LNKTYPE), link("x/c.png", "../a.png"), link("x/d.png", "c.png")]
    write_tar(tmp_path / "s/0.tar", {"a.png": b"a"}, [*links, link("e.png", "e.png"), link("f.png", "../../a.png")])
    source = open_source(tmp_path, "s", ("png",))
    assert [source.files(name)["png"] for name in ("x/b", "x/c", "x/d")] == [b"a"] * 3
    assert source.where("x/b").endswith("0.tar:x/b.png")
    for name in ("e", "f"):
        with pytest.raises(SampleError, match=r"a link to .*no regular file in this shard"):
            source.files(name)


def test_a_sparse_member_is_read_with_its_gaps(tmp_path):
    """As GNU tar --sparse stores a file of zeros with something in the middle."""
    (tmp_path / "s").mkdir()
    head = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    head[124:136], head[156:157] = b"%011o\0" % 512, tarfile.GNUTYPE_SPARSE
    head[257:265] = b"ustar  \0"
    head[386:410] = b"%011o\0%011o\0" % (1024, 512)
    head[410:434] = b"%011o\0%011o\0" % (2048, 0)
    head[483:495] = b"%011o\0" % 2048
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 256 + sum(head[156:]))
    (tmp_path / "s/0.tar").write_bytes(bytes(head) + b"x" * 512 + bytes(1024))
    assert open_source(tmp_path, "s", ("png",)).files("a") == {"png": bytes(1024) + b"x" * 512 + bytes(512)}


def test_a_sample_in_two_shards_is_an_error_that_names_both(tmp_path):
    write_tar(tmp_path / "s/0.tar", {"a.png": b""})
    write_tar(tmp_path / "s/1.tar", {"a.png": b""})
    with pytest.raises(ValueError, match=r"'a' is in both .*0\.tar and .*1\.tar"):
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
    monkeypatch.setattr("fourm_engine.data.raw.file_bytes.MAX_OPEN_SHARDS", 2)
    for i in range(5):
        write_tar(tmp_path / f"s/{i}.tar", {f"{i}.png": bytes([i])})
    source = open_source(tmp_path, "s", ("png",))
    for _ in range(2):
        assert [source.files(name)["png"] for name in source.names] == [bytes([i]) for i in range(5)]
        assert len(file_bytes._open) <= 2
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


def test_linked_folders_and_files_are_read_and_each_folder_once(tmp_path):
    fill(tmp_path, {"s/a.png": b"a", "s/day1/b.png": b"b", "disk/c.png": b"c", "disk/deep/d.png": b"d"})
    (tmp_path / "s/day2").symlink_to(tmp_path / "disk")
    (tmp_path / "s/latest").symlink_to("day1")  # is read as day1
    (tmp_path / "s/day1/up").symlink_to("..")
    (tmp_path / "disk/all").symlink_to(tmp_path)
    (tmp_path / "s/e.png").symlink_to(tmp_path / "disk/c.png")
    (tmp_path / "s/f.png").symlink_to("nowhere.png")
    (tmp_path / "s/g.png").symlink_to("g.png")
    source = open_source(tmp_path, "s", ("png",))
    assert source.names == ["a", "day1/b", "day2/c", "day2/deep/d", "e", "f", "g"]
    assert source.files("e") == source.files("day2/c") == {"png": b"c"}
    assert list(map(str, source.notes)) == [
        f"{tmp_path}/s: left out links to folders that are read under another name, or lie above: 3, such as latest"
    ]
    with pytest.raises(SampleError, match=r"a link to nowhere\.png, where there is no regular file"):
        source.files("f")
    with pytest.raises(SampleError, match=r"cannot be read|no regular file"):
        source.files("g")


NAMES = {
    "Screenshot 10.15.02\u202fAM": "Screenshot 10.15.02\u202fAM",
    "cafe\u0301": "caf\u00e9",  # as macOS writes it, and everybody else
    "caf\udce9": "caf\\xe9",  # Latin-1
    "two\nlines": "two\\nlines",
    "\x1b[2Jclear": "\\x1b[2Jclear",
    "line\u2028end": "line\\u2028end",
    "\u202egnp": "\\u202egnp",
    "-dash": "-dash",
    "dots..": "dots..",
    " space ": " space ",
    "\U0001f468\u200d\U0001f469": "\U0001f468\u200d\U0001f469",
}


@pytest.mark.parametrize("tar", [False, True])
def test_files_of_any_name_are_read_and_their_samples_can_be_printed_and_stored(tmp_path, tar):
    files = {f"{name}.PNG": name.encode(errors="surrogateescape") for name in NAMES}
    write_tar(tmp_path / "s/0.tar", files) if tar else fill(tmp_path / "s", files)
    source = open_source(tmp_path, "s", ("png",))
    assert source.names == sorted(NAMES.values())
    for name, sample in NAMES.items():
        assert source.files(sample) == {"png": name.encode(errors="surrogateescape")}
        assert len(source.where(sample).encode().splitlines()) == 1


def test_shards_and_files_beside_each_other_are_both_read_and_files_win(tmp_path):
    fill(tmp_path / "s", {"a.png": b"new", "b.png": b"b", "day/c.png": b"c"})
    write_tar(tmp_path / "s/0.tar", {"a.png": b"old", "d.png": b"d"})
    write_tar(tmp_path / "s/day/first.TAR", {"c.png": b"old", "e.png": b"e"})  # as if it was unpacked there
    source = open_source(tmp_path, "s", ("png",))
    assert source.names == ["a", "b", "d", "day/c", "day/e"]
    assert [source.files(name)["png"] for name in source.names] == [b"new", b"b", b"d", b"c", b"e"]
    assert list(map(str, source.notes)) == [
        f"{tmp_path}/s: samples both loose and in a shard: 2, such as {tmp_path}/s/0.tar:a.png; the loose files are "
        "used"
    ]
    assert pickle.loads(pickle.dumps(source)).files("d") == {"png": b"d"}
    assert source.stamp("a") != source.stamp("d")


@pytest.mark.parametrize("file", ["x.tar.gz", "x.tgz", "x.tar.bz2", "x.TAR.XZ", "x.tar.zst", "x.zip", "x.7z", "x.rar"])
def test_a_compressed_archive_is_named_beside_files_and_alone(tmp_path, file):
    fill(tmp_path, {f"s/{file}": b"x", "s/a.png": b"a", f"only/{file}": b"x"})
    source = open_source(tmp_path, "s", ("png",))
    remedy = "unpack them where they lie, or store them as plain .tar"
    assert list(map(str, source.notes)) == [f"{tmp_path}/s: left out compressed archives: 1, such as {file}; {remedy}"]
    with pytest.raises(ValueError, match=r"no file with extension png.*compressed archives: 1.*unpack them"):
        open_source(tmp_path, "only", ("png",))


@pytest.mark.parametrize("tar", [False, True])
def test_a_folder_within_the_folder_is_left_out_of_the_names(tmp_path, tar):
    files = {"data/s/1.png": b"1", "data/s/x/2.png": b"2"}
    write_tar(tmp_path / "s/0.tar", files) if tar else fill(tmp_path / "s", files)
    source = open_source(tmp_path, "s", ("png",))
    assert source.names == ["1", "x/2"]
    assert "all files lie in data/s/" in str(source.notes[0])


@pytest.mark.parametrize("tar", [False, True])
def test_what_systems_leave_behind_is_no_data_and_other_files_are_told_of(tmp_path, tar):
    litter = ("._a.png", "__MACOSX/._a.png", "__MACOSX/z.png", ".ipynb_checkpoints/a-checkpoint.png", "Thumbs.db")
    files = dict.fromkeys((*litter, "desktop.ini", ".DS_Store", "a.png", "README.md", "b.tif", "c.tif"), b"x")
    write_tar(tmp_path / "s/0.tar", files) if tar else fill(tmp_path / "s", files)
    source = open_source(tmp_path, "s", ("png",))
    assert source.names == ["a"]
    assert len(source.notes) == 1
    assert re.search(r"that are no \.png: 2, such as (0\.tar:)?b\.tif; save them as \.png, or", str(source.notes[0]))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    fill(tmp_path / "s", {"a.png": b"", "closed/b.png": b""})
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = open_source(tmp_path, "s", ("png",))
    assert list(map(str, source.notes)) == [
        f"{tmp_path}/s: left out folders that cannot be listed (Permission denied): 1, such as closed"
    ]


@pytest.mark.parametrize("tar", [False, True])
def test_files_that_vanish_after_they_were_found_are_the_error_of_their_sample(tmp_path, tar):
    write_tar(tmp_path / "s/0.tar", {"a.png": b"a"}) if tar else fill(tmp_path / "s", {"a.png": b"a"})
    source = open_source(tmp_path, "s", ("png",))
    next((tmp_path / "s").iterdir()).unlink()
    with pytest.raises(SampleError, match=r"No such file|no longer there"):
        source.files("a")
    assert source.stamp("a") == ""


def test_a_shard_that_is_written_anew_while_in_use_is_not_read_at_the_old_places(tmp_path):
    write_tar(tmp_path / "s/0.tar", {"a.png": b"a" * 600, "b.png": b"b" * 600})
    source = open_source(tmp_path, "s", ("png",))
    write_tar(tmp_path / "s/0.tar", {"b.png": b"b" * 600, "a.png": b"a" * 600})
    with pytest.raises(SampleError, match="the shard has changed since this run began"):
        source.files("a")


def test_files_side_by_side_that_another_modality_reads_are_not_left_out(tmp_path):
    for name in ("0.png", "0.txt", "0.bmp"):
        (tmp_path / name).write_bytes(b"x")
    claims = [Claim(".", ("png",), ("a",)), Claim(".", ("txt",), ("b",))]
    for source in LocalSources(tmp_path, claims, []).sources.values():
        (note,) = source.notes
        assert note.text.endswith(": 1, such as 0.bmp; save them as .png or .jpg")

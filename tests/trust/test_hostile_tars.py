"""A shard is read where it lies; what points elsewhere, lies about its size or never ends is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import time

import numpy as np
import pytest

from fourm_engine.data.raw.folder import Listing
from fourm_engine.data.raw.tar import TarSource
from fourm_plugins.modality import SampleError

EXTENSIONS = ("txt",)


def header(name: str, *, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def block(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def member(name: str, content: bytes = b"a word", **options) -> bytes:
    return header(name, size=len(content), **options) + block(content)


def pax(records: dict[str, str]) -> bytes:
    text = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length += 1
        text += str(length).encode() + record
    return member("pax", text, kind=tarfile.XHDTYPE)


END = bytes(1024)
GOOD = member("good.txt")

REFUSED = {
    "an absolute path": member("/owned.txt"),
    "a path out of the archive": member("../owned.txt"),
    "a path out of it in the middle": member("a/../../owned.txt"),
    "a long path out of it": pax({"path": "a/" * 200 + "../" * 300 + "owned.txt"}) + member("x.txt"),
    "another tar after its end": GOOD + END + member("lost.txt"),
    "one name twice": GOOD + member("good.txt"),
    "a name of a million characters": pax({"path": "a" * 1_000_000 + ".txt"}) + member("x.txt"),
    "a size beyond its end": header("a.txt", size=1 << 40),
    "a negative size": header("a.txt", size=-1024),
    "a negative size in an extended header": GOOD + pax({"size": "-2048"}) + member("a.txt"),
    "an extended header of a terabyte": header("pax", size=1 << 40, kind=tarfile.XHDTYPE),
    "a long name of a gigabyte": header("long", size=1 << 30, kind=tarfile.GNUTYPE_LONGNAME),
    "a sparse map that is none": pax({"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"}) + member("a.txt"),
    "five thousand extended headers in a row": pax({"comment": "x"}) * 5000 + GOOD,
    "a compressed archive": gzip.compress(GOOD + END),
    "a pickle": b"\x80\x04K\x01." * 200,
}


def shard(tmp_path, content: bytes):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "shard-0.tar").write_bytes(content)
    return folder


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_shard_is_refused_by_name_in_one_line(tmp_path, what):
    folder = shard(tmp_path, REFUSED[what] + END)
    began = time.process_time()
    with pytest.raises(ValueError, match=r"shard-0\.tar|extension") as caught:
        TarSource(Listing(folder, EXTENSIONS))
    assert time.process_time() - began < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2500


LINKS = {
    "a symbolic link": header("a.txt", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": header("a.txt", kind=tarfile.LNKTYPE, link="/etc/passwd"),
    "a device": header("a.txt", kind=tarfile.CHRTYPE),
    "a pipe": header("a.txt", kind=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("what", LINKS)
def test_what_is_no_file_is_not_read_and_the_others_are(tmp_path, what):
    source = TarSource(Listing(shard(tmp_path, LINKS[what] + GOOD + END), EXTENSIONS))
    assert source.files("good") == {"txt": b"a word"}
    with pytest.raises(SampleError, match="no regular file"):
        source.files("a")


def test_a_member_is_bounded_as_stored_and_never_inflated(tmp_path):
    """100 times compressed: what a reader would inflate is no file of a modality, or is read as the bytes it is."""
    big = gzip.compress(bytes(1 << 20))
    assert len(big) * 100 < 1 << 20
    folder = shard(tmp_path, member("a.txt.gz", big) + member("b.txt", big) + END)
    source = TarSource(Listing(folder, EXTENSIONS), max_bytes=2000)
    assert source.names == ["b"]
    assert source.files("b") == {"txt": big}
    (tmp_path / "more").mkdir()
    folder = shard(tmp_path / "more", member("c.txt", bytes(2001)) + END)
    source = TarSource(Listing(folder, EXTENSIONS), max_bytes=2000)
    with pytest.raises(SampleError, match="2001 bytes, more than the 2000 allowed"):
        source.files("c")


def test_a_sparse_map_that_goes_on_beyond_the_end_is_refused(tmp_path):
    head = bytearray(header("a.txt", kind=tarfile.GNUTYPE_SPARSE))
    head[482] = 1  # more of the map follows
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 256 + sum(head[156:]))
    with pytest.raises(ValueError, match="truncated or no tar file"):
        TarSource(Listing(shard(tmp_path, bytes(head)), EXTENSIONS))


def test_many_members_take_time_in_proportion(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for i in range(5000):
            tar.addfile(tarfile.TarInfo(f"{i}.txt"), io.BytesIO())
    began = time.process_time()
    assert len(TarSource(Listing(shard(tmp_path, (tmp_path / "x.tar").read_bytes()), EXTENSIONS)).names) == 5000
    assert time.process_time() - began < 10


def test_a_pipe_called_tar_is_not_waited_for(tmp_path):
    (tmp_path / "words").mkdir()
    os.mkfifo(tmp_path / "words" / "shard-0.tar")
    with pytest.raises(ValueError, match=r"shard-0\.tar: no regular file"):
        TarSource(Listing(tmp_path / "words", EXTENSIONS))


def test_random_damage_is_an_error_or_another_file_but_never_an_accident(tmp_path):
    rng = np.random.default_rng(0)
    whole = pax({"mtime": "1.5"}) + GOOD + member("b.txt") + LINKS["a hard link"] + END
    folder = shard(tmp_path, whole)
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(0, 256)
        (folder / "shard-0.tar").write_bytes(bytes(damaged[: rng.integers(1, len(whole) + 1)]))
        with contextlib.suppress(ValueError):
            TarSource(Listing(folder, EXTENSIONS))

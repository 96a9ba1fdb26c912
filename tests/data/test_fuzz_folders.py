"""Whatever lies in a folder: an error in one line, or samples whose modalities belong together."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tempfile
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import DrawnViews, ViewDrawer, view_of
from fourm_plugins.images import encode_array, encode_png
from fourm_plugins.manager import PluginManager

SMALL = {"image_size": 8, "patch_size": 4, "codebook_size": 16}
GRIDS = {"depth": {"min_depth": 0.5, "max_depth": 20}, "normal": {}, "rgb": {}, "semseg": {"num_classes": 40}}
#: Sample i is called NAMES[i], in one of the spellings; what its files hold says i, too.
NAMES = (
    ("0001",),
    ("caf\u00e9", "cafe\u0301"),
    ("10.15\u202fAM",),
    ("-dash and space",),
    ("dots..",),
    ("sub/folder",),
    ("line\nbreak\x1b[2J",),
    ("caf\udce9",),
    ("0001.png",),
)
BASE = len(NAMES)  # a good one that each modality has
KINDS = (
    *("good", "good", "good", "tar", "tar", "hard link in tar", "soft link in tar", "truncated", "empty", "text"),
    *("link", "dangling", "loop", "linked folder", "pipe", "folder", "hidden", "other extension", "turned"),
)
ENDS = {
    "depth": "npy",
    "normal": "png",
    "rgb": "PNG",
    "semseg": "png",
    "boxes": "json",
    "caption": "txt",
    "clip": "npy",
}
WHOLE = ("", "", "", "tar.gz", "folder in itself", "wrapped")
#: Of a whole modality, an error; at most one modality of a folder is so.
BROKEN = ("gzipped tar", "truncated tar", "no tar", "pipe")


@cache
def modalities():
    manager = PluginManager()
    found = {name: manager.modality(name, **SMALL, **own) for name, own in GRIDS.items()}
    found["clip"] = manager.modality("clip", **SMALL, channels=4)
    return {**found, "boxes": manager.modality("boxes"), "caption": manager.modality("caption")}


@cache
def content(modality: str, i: int, turned: bool = False) -> bytes:
    shape = (12, 8) if turned else (8, 12)
    if modality == "rgb":
        return encode_png(np.full((*shape, 3), 10 * i + 5, np.uint8))
    if modality == "depth":
        return encode_array(np.full(shape, i + 1, np.float32))
    if modality == "semseg":
        return encode_png(np.full(shape, i, np.uint8))
    if modality == "normal":
        angle = 0.1 * i
        vector = np.array([np.sin(angle), 0, np.cos(angle)])
        return encode_png(np.broadcast_to(np.rint((vector + 1) * 127.5), (*shape, 3)).astype(np.uint8))
    if modality == "clip":
        return encode_array(np.full((*shape, 4), i + 1, np.float32))
    if modality == "boxes":
        return json.dumps([{"label": f"s{i}", "bbox": [0.1, 0.1, 0.5, 0.5]}]).encode()
    return f"s{i}\u2028goes on\r\n".encode()


def told(modality: str, value) -> int:
    """The sample of which a value is."""
    if modality == "boxes":
        return int(value[0].label[1:])
    if modality == "caption":
        assert len(value) == 1  # no line ends within the sentence
        return int(value[0].split()[0][1:])
    first = value[0, 0]
    if modality == "normal":
        return round(float(np.arctan2(first[0], first[2])) / 0.1)
    return {"rgb": lambda: (int(first[0]) - 5) // 10, "semseg": lambda: int(first)}.get(
        modality, lambda: round(float(np.ravel(first)[0])) - 1
    )()


def lay(root: Path, modality: str, entries, whole: str) -> None:
    """Files of one modality, the way that `whole` says."""
    folder, aside, end = root / modality, root / ".aside" / modality, ENDS[modality]
    inside = folder / modality if whole == "wrapped" else folder
    inside.mkdir(parents=True)
    aside.mkdir(parents=True)
    members: list[tuple[tarfile.TarInfo, bytes]] = []

    def member(path: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.size = kind, link, len(data)
        members.append((info, data))

    (inside / f"base.{end}").write_bytes(content(modality, BASE))
    for number, (i, spelling, kind) in enumerate(entries):
        name, good = NAMES[i][spelling % len(NAMES[i])], content(modality, i, kind == "turned")
        path = inside / f"{name}.{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "tar":
            member(f"./{name}.{end}", good)
        elif kind == "hard link in tar":
            member(f"blobs/{number}", good)
            member(f"{name}.{end}", kind=tarfile.LNKTYPE, link=f"blobs/{number}")
        elif kind == "soft link in tar":
            member(f"blobs/{number}", good)
            member(f"{name}.{end}", kind=tarfile.SYMTYPE, link="../" * name.count("/") + f"blobs/{number}")
        elif kind == "linked folder":
            (aside / str(number)).mkdir()
            (aside / str(number) / f"{name.replace('/', '_')}.{end}").write_bytes(good)
            if not os.path.lexists(inside / f"of {name}"):
                (inside / f"of {name}").parent.mkdir(parents=True, exist_ok=True)
                (inside / f"of {name}").symlink_to(aside / str(number))
        elif os.path.lexists(path):
            continue
        elif kind == "link":
            (aside / str(number)).write_bytes(good)
            path.symlink_to(aside / str(number))
        elif kind in ("dangling", "loop"):
            path.symlink_to("nowhere" if kind == "dangling" else path.name)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "hidden":
            path.with_name(f"._{path.name}").write_bytes(b"rubbish")
        elif kind == "other extension":
            path.with_suffix(".tif").write_bytes(good)
        else:
            path.write_bytes({"truncated": good[:-3], "empty": b"", "text": b"\xff\xfe rubbish"}.get(kind, good))
    if whole == "folder in itself":
        (folder / "again").symlink_to(root)
        (folder / "once more").symlink_to(folder)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    packed = archive.getvalue()
    if whole == "pipe":
        os.mkfifo(folder / "0.tar")
    elif whole == "tar.gz":
        (folder / "0.tar.gz").write_bytes(gzip.compress(packed))
    elif members or whole in ("no tar", "truncated tar", "gzipped tar"):
        made = {"gzipped tar": gzip.compress(packed), "no tar": b"rubbish" * 100, "truncated tar": packed[:700]}
        (folder / "0.tar").write_bytes(made.get(whole, packed))


def one_line(text: str) -> None:
    assert len(text.splitlines()) == 1, text
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in text), text
    assert len(text) < 3000


ENTRY = st.tuples(st.integers(0, len(NAMES) - 1), st.integers(0, 1), st.sampled_from(KINDS))
ENTRIES = st.lists(ENTRY, min_size=1, max_size=6, unique_by=lambda entry: entry[0])
TREE = st.dictionaries(st.sampled_from(sorted(ENDS)), st.tuples(ENTRIES, st.sampled_from(WHOLE)), min_size=1)
LISTED = st.lists(st.tuples(st.integers(0, len(NAMES) - 1), st.sampled_from(["", ".png", ".x"])), min_size=3)


@pytest.mark.timeout(120)
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tree=TREE, broken=st.sampled_from([*[""] * 12, *BROKEN]), listed=st.none() | LISTED)
def test_any_folder_ends_in_one_line_or_in_samples_that_belong_together(tree, broken, listed):
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "data"
        root.mkdir()
        for number, (modality, (entries, whole)) in enumerate(tree.items()):
            lay(root, modality, entries, broken if broken and number == 0 else whole)
        if listed is not None:
            (root / "splits.json").write_text(json.dumps({"some": [NAMES[i][-1] + end for i, end in listed]}))
        try:
            data = AlignedData(root, modalities(), None if listed is None else "some")
        except ValueError as error:
            one_line(str(error))
            if not broken and listed is None:
                raise  # each modality has a good file
            return
        one_line(data.report())
        seen = DrawnViews(ViewDrawer(modalities()), data, 1)
        for name in data.names:
            one_line(name)
            found, views = {}, seen.get(name, 0)
            for modality in sorted(data.has(name)):
                one_line(data.where(name, modality))
                try:
                    value = data.value(name, modality)
                    found[modality] = told(modality, value)
                    view = view_of(modalities()[modality].spec, views, 0)
                    data.normalise(name, modality, data.augment(name, modality, value, view))
                except BadFile as bad:
                    one_line(str(bad))
                    data.skip(name, bad)
            assert len(set(found.values())) <= 1, f"{name!r}: {found}"

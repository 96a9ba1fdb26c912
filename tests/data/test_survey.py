"""What lies in a folder is told by content and by names, whatever the folders are called."""

from __future__ import annotations

import os
import re
import tarfile
import time

import numpy as np
import pytest

from fourm_engine.data.raw.survey import survey
from fourm_plugins.manager import PluginManager
from tests.folders import names, noisy, write
from tests.plugins.instances import png
from tests.sdk.sites import GOOD, entry, put

RAISES = GOOD + "    @classmethod\n    def recognise(cls, samples): raise RuntimeError('boom')\n"
ANSWERS = GOOD + "    @classmethod\n    def recognise(cls, samples): return 'mine'\n"
RIVAL = GOOD.replace("codes: int = 64", "codes: int = 64\n        source: str = 'fog'").replace(
    'source="thermal", extensions=("npy",)', 'source=getattr(self.settings, "source", "fog"), extensions=("png",)'
) + (
    "    @classmethod\n    def recognise(cls, samples):\n"
    "        from fourm_plugins.recognition import Recognised\n"
    "        return Recognised(0.9, 'fog') if any('png' in s for s in samples) else None\n"
)


def look(root):
    return survey(root, PluginManager())


def read(root):
    """Modality -> (source, samples)."""
    return {found.name: (found.source, len(found.samples)) for found in look(root).matches}


def test_folders_are_recognised_whatever_they_are_called(tmp_path):
    for folder, kind in (("Foo 1", "rgb"), ("b", "depth"), ("c-c", "normal"), ("ids", "semseg"), ("words", "caption")):
        write(tmp_path, folder, kind, names(6))
    write(tmp_path, "things", "boxes", names(4))
    found = look(tmp_path)
    assert read(tmp_path) == {
        "rgb": ("Foo 1", 6),
        "rgb@pixels": ("Foo 1", 6),
        "depth": ("b", 6),
        "normal": ("c-c", 6),
        "semseg": ("ids", 6),
        "caption": ("words", 6),
        "boxes": ("things", 4),
    }
    assert (found.train, found.val, found.paired, found.notes) == (tmp_path, None, 6, [])


def put_png(root, folder, *arrays):
    (root / folder).mkdir(parents=True)
    for name, array in zip(names(len(arrays)), arrays, strict=True):
        (root / folder / f"{name}.png").write_bytes(png(array))


def test_what_a_folder_is_called_outweighs_its_content(tmp_path):
    deep = [(noisy(seed)[..., 0].astype(np.uint16) + 1800) * 9 for seed in range(3)]  # millimetres, or bright
    put_png(tmp_path, "img", *deep)
    put_png(tmp_path, "x", *deep)
    found = {one.source: one for one in look(tmp_path).matches if not one.modality.spec.continuous}
    assert {source: one.name for source, one in found.items()} == {"img": "rgb", "x": "depth"}
    assert "of 16 bits, of which 8 are used" in found["img"].recognised.what
    assert found["img"].rivals == ("depth",)


def test_files_that_the_modality_of_their_folder_cannot_read_are_no_other_s(tmp_path):
    grey = [noisy(seed)[..., 0] for seed in range(3)]
    put_png(tmp_path, "pictures", *map(noisy, range(3)))
    put_png(tmp_path, "depth", *grey)
    put_png(tmp_path, "masks", *map(noisy, range(3)))
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/0.json").write_text('{"caption": "a ball"}')
    notes = "\n".join(look(tmp_path).notes)
    assert read(tmp_path) == {"rgb": ("pictures", 3), "rgb@pixels": ("pictures", 3)}
    assert "depth/ is not read: it is named after depth, which cannot read it: depth needs a picture of 16" in notes
    assert "masks/ is not read: it is named after semseg, which cannot read it: a map has one channel" in notes
    assert "captions/ is not read: it is named after caption, which cannot read it: it reads .txt, not .json" in notes
    put_png(tmp_path / "noise", "pictures", *map(noisy, range(3)))
    put_png(tmp_path / "noise", "masks", *grey)
    assert read(tmp_path / "noise") == {"rgb": ("pictures", 3), "rgb@pixels": ("pictures", 3)}
    assert "cannot read it: neighbouring pixels differ too often for ids" in "\n".join(look(tmp_path / "noise").notes)
    put_png(tmp_path / "alone", "depth", *grey)
    with pytest.raises(
        ValueError, match=r"recognises what is there \(depth/\); depth/ is not read: it is named after "
    ):
        look(tmp_path / "alone")


def test_links_to_themselves_hide_nothing(tmp_path):
    write(tmp_path, "left", "rgb", names(5))
    for name in ("loop", "loop.csv"):
        (tmp_path / name).symlink_to(name)
    assert read(tmp_path)["rgb"] == ("left", 5)
    with pytest.raises(ValueError, match=r"loop: no such folder"):
        look(tmp_path / "loop")


def test_two_folders_of_pictures_with_common_names_are_two_modalities(tmp_path):
    for folder in ("left", "right"):
        write(tmp_path, folder, "rgb", names(5))
    assert read(tmp_path) == {"rgb": ("left", 5), "rgb@pixels": ("left", 5), "rgb@right": ("right", 5)}


def test_a_folder_a_day_is_one_modality_and_so_are_pictures_without_a_folder(tmp_path):
    for day in ("2024-01", "2024-02"):
        write(tmp_path / "days", day, "rgb", names(4, below="" if day.endswith("1") else "b"))
        write(tmp_path / "flat", ".", "rgb", names(4))
    assert read(tmp_path / "days")["rgb"] == (".", 8)
    assert read(tmp_path / "flat")["rgb"] == (".", 4)


def test_pictures_and_texts_side_by_side_pair_up(tmp_path):
    write(tmp_path, ".", "rgb", names(5))
    write(tmp_path, ".", "caption", names(3))
    assert read(tmp_path) == {"rgb": (".", 5), "rgb@pixels": (".", 5), "caption": (".", 3)}
    assert look(tmp_path).paired == 3


def test_shards_are_read(tmp_path):
    write(tmp_path / "loose", "x", "rgb", names(5))
    (tmp_path / "data/pictures").mkdir(parents=True)
    with tarfile.open(tmp_path / "data/pictures/0.tar", "w") as tar:
        for path in sorted((tmp_path / "loose/x").iterdir()):
            tar.add(path, path.name)
    assert read(tmp_path / "data")["rgb"] == ("pictures", 5)


def test_parts_of_a_data_set_are_told_by_their_names(tmp_path):
    for part in ("train2017", "val2017", "test2017"):
        write(tmp_path / part, "images", "rgb", names(4, below=part))
    found = look(tmp_path)
    assert (found.train, found.val) == (tmp_path / "train2017", tmp_path / "val2017")
    assert len(found.samples) == 4


def test_what_is_not_read_is_named_with_the_remedy(tmp_path):
    write(tmp_path, "images", "rgb", names(3))
    write(tmp_path, "more", "rgb", ["other"])
    write(tmp_path, "far", "depth", names(3))
    (tmp_path / "captions.jsonl").write_text("{}")
    (tmp_path / "lonely.png").write_bytes(png(noisy(0)))
    (tmp_path / "points").mkdir()
    (tmp_path / "points/a.json").write_text("{}")
    (tmp_path / "images/clip.mp4").write_bytes(b"")
    write(tmp_path, "images", "caption", ["IMG_0000"])
    notes = "\n".join(look(tmp_path).notes)
    assert (
        "captions.jsonl: no column names the samples; call it file_name, filename, file, image or name (there: none)"
        in notes
    )
    assert "itself are not read: 1, such as lonely.png; move them into a folder" in notes
    assert "points/ is not read: no installed plugin recognises its 1 sample" in notes
    assert "more/ is not read: it is rgb as images/, with other samples; move both into one folder" in notes
    assert "such as clip.mp4" in notes


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "an empty folder"),
        (lambda root: root.write_text("x"), "a file; name the folder that holds your data"),
        (lambda root: write(root, "a/b/c", "rgb", ["0"]) or (root / "notes.xyz").touch() or empty(root), "deeper"),
        (lambda root: root.mkdir() or (root / "all.zip").touch(), "unpack all.zip"),
        (lambda root: damaged(root), "no installed modality recognises what is there (images/)"),
        (
            lambda root: files(root, "images/a.HEIC", "images/b.HEIC"),
            "images/ is not read: 2 .heic files; save them as .png",
        ),
        (
            lambda root: files(root, "a.parquet", "b.parquet"),
            "2 .parquet files; read where they lie with fourm-parquet, data.train: parquet:FOLDER",
        ),
        (lambda root: files(root, "a.exr"), "data/ is not read: 1 .exr file; save their arrays as .npy"),
        (
            lambda root: files(root, "x/a.dat"),
            "1 .dat file; to write a modality that reads them: fourm plugins new NAME",
        ),
        (lambda root: files(root, "x/a.png", "x/b.png"), "empty files among those looked at: 2, such as "),
        (
            lambda root: files(root, "x/a.png", content=b"version https://git-lfs.github.com/spec/v1\noid"),
            "pointers of Git LFS among those looked at: 1, such as ",
        ),
    ],
)
def test_a_folder_without_usable_data_is_refused_in_one_line(tmp_path, make, says):
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
        look(tmp_path / "data")
    assert str(raised.value).count(says) == 1
    assert str(tmp_path / "data") in str(raised.value)


def files(root, *paths, content=b""):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def empty(root):
    for path in root.rglob("*.png"):
        path.unlink()


def damaged(root):
    (root / "images").mkdir(parents=True)
    for index in range(3):
        (root / f"images/{index}.png").write_bytes(b"\x89PNG")


def test_empty_files_among_others_are_told_and_hide_nothing(tmp_path):
    write(tmp_path, "images", "rgb", names(6))
    files(tmp_path / "images", "e.png", "f.png", "g.png", "h.png")
    found = look(tmp_path)
    assert {one.name for one in found.matches} == {"rgb", "rgb@pixels"}
    assert any(note.startswith("empty files among those looked at: 4, such as ") for note in found.notes)


def test_scenes_with_a_folder_per_modality_are_told_to_put_the_modality_first(tmp_path):
    for scene in ("hall", "kitchen"):
        for camera in ("image", "depth"):
            write(tmp_path, f"inside/{scene}/{camera}", "rgb", names(3))
        write(tmp_path, f"deeper/scans/{scene}/left", "rgb", names(3, below=scene))
        write(tmp_path, f"deeper/scans/{scene}/right", "rgb", names(3, below=scene))
        write(tmp_path, f"right/image/{scene}", "rgb", names(3))
        write(tmp_path, f"right/depth/{scene}", "rgb", names(3))
    told = {
        folder: [note for note in look(tmp_path / folder).notes if "look like modalities" in note]
        for folder in ("inside", "deeper", "right")
    }
    (inside,), (deeper,) = told["inside"], told["deeper"]
    assert inside.startswith("the folder: depth, image in each of its 2 folders look like modalities")
    assert inside.endswith("put the modality first: depth/hall/… and image/hall/…")
    assert deeper.startswith("scans: left, right in each of its 2 folders look like modalities")
    assert told["right"] == []


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "photos.tar.gz").touch()
    with pytest.raises(ValueError, match="an archive, not a folder; unpack it"):
        look(tmp_path / "photos.tar.gz")


def test_files_that_do_not_pair_up_are_refused_with_what_their_names_differ_in(tmp_path):
    write(tmp_path, "images", "rgb", names(4))
    write(tmp_path, "maps", "depth", names(4), suffix="_depth")
    with pytest.raises(
        ValueError, match=r"no sample has files of more than one of images, maps: .*_depth.*name them alike"
    ):
        look(tmp_path)


def test_some_damaged_files_do_not_hide_what_a_folder_holds(tmp_path):
    write(tmp_path, "images", "rgb", names(15))
    (tmp_path / "images/broken.png").write_bytes(b"\x89PNG")
    assert read(tmp_path)["rgb"] == ("images", 16)


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("acme_raises", RAISES, "plugin mist left out of images: .*acme-mist 1.2 .*RuntimeError: boom"),
        ("acme_answers", ANSWERS, "it answers 'mine'"),
    ],
)
def test_a_plugin_that_fails_is_named_and_left_out(tmp_path, monkeypatch, module, source, says):
    site = tmp_path / "site"
    put(site, "acme-mist", entry("mist", f"{module}:Thermal"), source=source, module=module)
    monkeypatch.syspath_prepend(site)
    write(tmp_path / "data", "images", "rgb", names(3))
    found = look(tmp_path / "data")
    assert {one.name for one in found.matches} == {"rgb", "rgb@pixels"}
    (note,) = found.notes
    assert re.search(says, note)


def test_of_two_plugins_the_surer_one_reads_a_folder_and_the_other_is_told(tmp_path, monkeypatch):
    site = tmp_path / "site"
    put(site, "acme-fog", entry("fog", "acme_fog:Thermal"), source=RIVAL)
    monkeypatch.syspath_prepend(site)
    write(tmp_path / "data", "images", "rgb", names(3))
    assert [(one.name, one.rivals) for one in look(tmp_path / "data").matches] == [
        ("rgb", ("fog",)),
        ("rgb@pixels", ()),
    ]
    (tmp_path / "data/images").rename(tmp_path / "data/fog")  # now it is named after the other
    assert [(one.name, one.rivals) for one in look(tmp_path / "data").matches] == [("fog", ("rgb", "rgb@pixels"))]


def test_a_plugin_that_has_no_setting_for_its_folder_says_what_to_rename(tmp_path, monkeypatch):
    site = tmp_path / "site"
    fixed = RIVAL.replace("source: ", "place: ")
    put(site, "acme-fog", entry("fog", "acme_fixed:Thermal"), source=fixed, module="acme_fixed")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("FOURM_DISABLE", "rgb,rgb@pixels")
    write(tmp_path / "data", "images", "rgb", names(3))
    with pytest.raises(
        ValueError, match="images/ looks like fog, which has no setting for its folder; rename it to fog"
    ):
        look(tmp_path / "data")


@pytest.mark.slow
def test_a_hundred_thousand_files_take_seconds(tmp_path):
    write(tmp_path, "images", "rgb", names(2))
    some = sorted((tmp_path / "images").iterdir())  # a file may have some 65,000 links
    for index in range(100_000):
        os.link(some[index % 2], tmp_path / f"images/{index:06}.png")
    began = time.monotonic()
    tokens, _ = look(tmp_path).matches
    assert (len(tokens.samples), tokens.looked) == (100_002, 200)
    assert time.monotonic() - began < 60

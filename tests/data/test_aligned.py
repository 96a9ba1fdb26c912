"""Samples are the union over modalities; whatever is missing or unusable is counted and named."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import DrawnViews, ViewDrawer, view_of
from fourm_plugins import SampleError, View
from fourm_plugins.arrays import check_array
from fourm_plugins.discovery import PluginError
from tests.fakes import fake_modalities, sample_names, to_npy, write_data

MODALITIES = fake_modalities()


def usable(data, name):
    """Modality -> value, of those that are not skipped."""
    values = {}
    for modality in sorted(data.has(name)):
        try:
            values[modality] = data.value(name, modality)
        except BadFile as bad:
            data.skip(name, bad)
    return values


@pytest.fixture(params=["folder", "tar"])
def root(request, tmp_path):
    names = {"a": sample_names(10), "b": sample_names(8, start=4), "words": sample_names(3)}
    write_data(tmp_path, MODALITIES, names, tar=request.param == "tar")
    return tmp_path


def test_samples_that_lack_a_modality_are_used_and_counted(root, caplog):
    with caplog.at_level(logging.WARNING):
        data = AlignedData(root, MODALITIES)
    assert data.names == sample_names(12)
    assert data.counts == {"a": 10, "a@pixels": 10, "b": 8, "words": 3}
    assert data.has("0000") == {"a", "a@pixels", "words"}
    assert data.has("0011") == {"b"}
    assert set(usable(data, "0005")) == {"a", "a@pixels", "b"}
    message = caplog.messages[0]
    assert "12 samples" in message
    assert "b 8 (lacks 4: 0000, 0001, 0002, …)" in message
    assert "words 3 (lacks 9: 0003" in message


def test_folders_and_shards_hold_the_same_samples(tmp_path):
    for tar in (False, True):
        write_data(tmp_path / str(tar), MODALITIES, sample_names(9), tar=tar)
    folder, shards = (AlignedData(tmp_path / str(tar), MODALITIES) for tar in (False, True))
    assert folder.names == shards.names
    for name in folder.names:
        for modality, value in usable(folder, name).items():
            np.testing.assert_array_equal(value, shards.value(name, modality))


def test_nothing_is_reported_where_all_names_match(tmp_path, caplog):
    write_data(tmp_path, MODALITIES, sample_names(3))
    AlignedData(tmp_path, MODALITIES)
    assert not caplog.records


def test_a_modality_without_any_folder_is_missing_everywhere(tmp_path, caplog):
    write_data(tmp_path, fake_modalities(["a", "a@pixels"]), sample_names(3))
    data = AlignedData(tmp_path, MODALITIES)
    assert data.has("0001") == {"a", "a@pixels"}
    assert "b 0 (lacks 3" in caplog.text


def test_data_of_no_modality_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder.* \.npy files in a/; .*; \.txt files in words/"):
        AlignedData(tmp_path / "nowhere", MODALITIES)
    with pytest.raises(ValueError, match=r"holds no data of any modality; looked for \.npy files in a/"):
        AlignedData(tmp_path, MODALITIES)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"a: no file with extension npy"):
        AlignedData(tmp_path, MODALITIES)


def test_splits_choose_samples_by_name(root, caplog):
    (root / "splits.json").write_text(
        json.dumps({"few": ["0001", "0007", "gone"], "none": ["gone"], "odd": 3, "ids": [1, "0001"]})
    )
    data = AlignedData(root, MODALITIES, "few")
    assert data.names == ["0001", "0007"]
    assert data.counts == {"a": 2, "a@pixels": 2, "b": 1, "words": 1}
    assert "such as gone" in caplog.text
    with pytest.raises(ValueError, match="it has few, none, odd, ids"):
        AlignedData(root, MODALITIES, "many")
    for split, said in (("odd", "'odd', but 3; write a list of names"), ("ids", "'ids': entry 0 is 1, not a name")):
        with pytest.raises(ValueError, match=f"split {said}"):
            AlignedData(root, MODALITIES, split)
    with pytest.raises(ValueError, match="none of the 1 sample"):
        AlignedData(root, MODALITIES, "none")


def test_a_split_without_its_file_is_an_error(root):
    with pytest.raises(ValueError, match=r"splits\.json: needed for split 'few', but cannot be read: No such file"):
        AlignedData(root, MODALITIES, "few")
    (root / "splits.json").write_text('["0001"]')
    with pytest.raises(ValueError, match=r'split \'few\'; write \{"few": \["0001", ...\]\}'):
        AlignedData(root, MODALITIES, "few")


BAD = {
    "truncated": ("a", to_npy(np.zeros((12, 16, 2), np.float32))[:-9], "truncated"),
    "no such format": ("a", b"rubbish", "truncated or no .npy"),
    "wrong shape": ("a", to_npy(np.zeros((12, 16), np.float32)), "expected (H, W, 2)"),
    "NaN": ("a", to_npy(np.full((12, 16, 2), np.nan, np.float32)), "values are NaN"),
    "class out of range": ("b", to_npy(np.full((12, 16), 7)), "class ids 7 to 7, outside -1 to 4"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_an_unusable_file_is_reported_with_file_and_reason(tmp_path, case, caplog):
    modality, content, reason = BAD[case]
    write_data(tmp_path, MODALITIES, sample_names(3))
    path = tmp_path / modality / "0001.npy"
    path.write_bytes(content)
    data = AlignedData(tmp_path, MODALITIES)
    with pytest.raises(BadFile) as error:
        data.array("0001", modality, View.centre(source_aspect=16 / 12))
    assert error.value.where == str(path)
    assert reason in error.value.reason
    for _ in range(2):
        data.skip("0001", error.value)
    assert data.errors == {modality: 1}
    assert caplog.messages == [f"skipped {error.value}"]
    with pytest.raises(BadFile):
        AlignedData(tmp_path, MODALITIES, on_error="raise").skip("0001", error.value)


def test_values_leave_out_what_is_unusable(tmp_path):
    write_data(tmp_path, MODALITIES, sample_names(3))
    (tmp_path / "b/0001.npy").write_bytes(b"rubbish")
    (tmp_path / "words/0001.txt").write_bytes(b"")
    data = AlignedData(tmp_path, MODALITIES)
    assert set(usable(data, "0001")) == {"a", "a@pixels"}
    assert data.errors == {"b": 1, "words": 1}


def test_many_unusable_files_do_not_flood_the_log(tmp_path, caplog):
    write_data(tmp_path, fake_modalities(["b"]), sample_names(30))
    data = AlignedData(tmp_path, fake_modalities(["b"]))
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"rubbish")
    for name in data.names:
        usable(data, name)
    assert data.errors == {"b": 30}
    assert len(caplog.messages) == 21
    assert caplog.messages[-1] == "further skipped files are only counted"


def test_a_fault_of_the_plugin_is_never_skipped_and_names_the_file(tmp_path, monkeypatch):
    write_data(tmp_path, MODALITIES, sample_names(1))
    data = AlignedData(tmp_path, MODALITIES)
    monkeypatch.setattr(type(MODALITIES["b"]), "read", lambda self, files: 1 / 0)
    with pytest.raises(PluginError, match=r"b/0000\.npy: read of b \(.*\) failed with ZeroDivisionError"):
        data.value("0000", "b")
    monkeypatch.setattr(type(MODALITIES["b"]), "read", lambda self, files: None)
    with pytest.raises(PluginError, match=r"b/0000\.npy: read of b \(.*\) gives None, not a value"):
        data.value("0000", "b")


@pytest.mark.parametrize(
    ("modality", "array", "reason"),
    [
        ("a", np.zeros((2, 8, 8)), "expected float32 (2, 8, 8), found float64 (2, 8, 8)"),
        ("a", np.zeros((8, 8, 2), np.float32), "found float32 (8, 8, 2)"),
        ("a", np.full((2, 8, 8), np.inf, np.float32), "128 values are NaN or infinite"),
        ("b", np.full((8, 8), -2), "class ids -2 to -2"),
        ("words", b"x", "expected a text"),
        ("words", "x" * 5000, "more than max_characters=4096"),
        ("words", "caf\udce9", "half a character, U+DCE9"),
    ],
)
def test_an_array_that_is_not_what_the_spec_says_never_reaches_the_model(modality, array, reason):
    with pytest.raises(SampleError) as error:
        check_array(MODALITIES[modality].spec, array)
    assert reason in str(error.value)


def test_modalities_of_a_group_see_one_crop_and_others_their_own(tmp_path):
    write_data(tmp_path, MODALITIES, sample_names(4))
    data = AlignedData(tmp_path, MODALITIES)
    seen = DrawnViews(ViewDrawer(MODALITIES, augment=True, seed=3), data, 1)
    views = [seen.get("0001", number) for number in range(3)]
    assert len({v["image"] for v in views}) == 3
    assert views == [seen.get("0001", number) for number in range(3)]
    assert seen.get("0002", 0) != views[0]
    assert view_of(MODALITIES["a"].spec, views[2], 2) is view_of(MODALITIES["b"].spec, views[2], 2)
    assert view_of(MODALITIES["words"].spec, views[2], 2) == View(variant=2)
    crop = views[1]["image"]
    assert crop.width * 16 == pytest.approx(crop.height * 12)  # square pixels from pictures 16 wide and 12 high


def test_without_augmentation_the_view_is_the_largest_centre_crop(tmp_path):
    write_data(tmp_path, MODALITIES, sample_names(1))
    view = DrawnViews(ViewDrawer(MODALITIES), AlignedData(tmp_path, MODALITIES), 1).get("0000", 0)["image"]
    assert (view.top, view.left, view.height, view.width, view.flip) == (0, 0.125, 1, 0.75, False)


def test_the_shape_of_a_crop_survives_an_unusable_first_modality(tmp_path):
    write_data(tmp_path, MODALITIES, sample_names(1))
    (tmp_path / "a/0000.npy").write_bytes(b"rubbish")
    data = AlignedData(tmp_path, MODALITIES)
    assert ViewDrawer(MODALITIES).aspects(data, "0000") == {"image": 16 / 12}


def test_two_shapes_in_one_group_are_an_error():
    class Wide(type(MODALITIES["b"])):
        def make_spec(self):
            spec = super().make_spec()
            return spec.model_copy(update={"array": spec.array.model_copy(update={"width": 16})})

    with pytest.raises(ValueError, match="a and b share the crops of group 'image'"):
        ViewDrawer({**MODALITIES, "b": Wide("b")})


def test_a_picture_of_another_shape_than_the_one_the_crop_was_drawn_for_is_refused(tmp_path):
    write_data(tmp_path, MODALITIES, sample_names(1))
    data = AlignedData(tmp_path, MODALITIES)
    upright = View.centre(source_aspect=12 / 16)  # of the same photograph, turned
    with pytest.raises(BadFile, match=r"width / height is 1.333, but 0.750 in the picture that it belongs to"):
        data.array("0000", "a", upright)


def test_names_in_two_normal_forms_are_one_sample(tmp_path):
    for source, name in (("a", "caf\u00e9"), ("b", "cafe\u0301")):
        write_data(tmp_path, fake_modalities([source]), [name])
    data = AlignedData(tmp_path, fake_modalities(["a", "b"]))
    assert data.names == ["caf\u00e9"]
    assert data.has("caf\u00e9") == {"a", "b"}


def test_a_data_set_in_which_nothing_pairs_up_is_an_error_with_the_likely_cause(tmp_path):
    for source in ("a", "b"):
        write_data(tmp_path, fake_modalities([source]), [f"{name}_{source}" for name in sample_names(3)])
    cause = (
        r"no sample has files of more than one of a, b: names of a and b that differ in a beginning or an end that all"
    )
    with pytest.raises(ValueError, match=cause + r".*: 3, such as 0000_a and 0000_b; name them alike"):
        AlignedData(tmp_path, fake_modalities(["a", "b"]))


def test_names_that_nearly_pair_up_are_told_where_others_do(tmp_path, caplog):
    write_data(tmp_path, fake_modalities(["a"]), ["x1", "x2", "X3"])
    write_data(tmp_path, fake_modalities(["b"]), ["x1", "x2", "x3"])
    AlignedData(tmp_path, fake_modalities(["a", "b"]))
    assert "that differ in capital letters alone: 1, such as X3 and x3" in caplog.text


def test_all_modalities_in_one_archive_or_folder_are_an_error_that_says_what_is_wanted(tmp_path):
    (tmp_path / "shard-00000.tar.gz").write_bytes(b"")
    (tmp_path / "0000.txt").write_bytes(b"")
    (tmp_path / "Word").mkdir()
    with pytest.raises(ValueError, match="holds no data of any modality") as error:
        AlignedData(tmp_path, MODALITIES)
    assert "archives in the folder itself: 1, such as shard-00000.tar.gz; data lies in a folder for each" in str(
        error.value
    )
    assert "files in the folder itself: 1, such as 0000.txt; move them" in str(error.value)
    assert "the folder Word is not read; words is looked for" in str(error.value)


def test_splits_may_list_files_in_any_normal_form_and_encoding_of_json(tmp_path, caplog):
    write_data(tmp_path, MODALITIES, ["0000", "0001", "caf\u00e9"])
    listed = ["./a/0000.npy", "0001.jpg", "cafe\u0301"]
    (tmp_path / "splits.json").write_bytes(json.dumps({"some": listed}, ensure_ascii=False).encode("utf-16"))
    assert AlignedData(tmp_path, MODALITIES, "some").names == ["0000", "0001", "caf\u00e9"]
    assert "split some lists files rather than samples: 2, such as ./a/0000.npy, read as 0000" in caplog.text


def test_a_split_that_names_nothing_here_says_what_the_names_differ_in(tmp_path):
    write_data(tmp_path, MODALITIES, ["IMG_1", "IMG_2"])
    (tmp_path / "splits.json").write_text(json.dumps({"some": ["img_1", "img_2"], "bad": ["IMG_1", None]}))
    with pytest.raises(
        ValueError, match=r"none of the 2 samples.*differ in capital letters alone .2., such as img_1 from"
    ):
        AlignedData(tmp_path, MODALITIES, "some")
    with pytest.raises(ValueError, match="split 'bad': entry 1 is None, not a name"):
        AlignedData(tmp_path, MODALITIES, "bad")


def test_a_modality_of_which_no_file_can_be_used_is_an_error(tmp_path):
    write_data(tmp_path, MODALITIES, sample_names(3))
    for path in (tmp_path / "words").iterdir():
        path.write_bytes(b"")
    (tmp_path / "a/0000.npy").write_bytes(b"rubbish")
    data = AlignedData(tmp_path, MODALITIES)
    data.check_usable(["a", "a@pixels", "b"])
    with pytest.raises(
        ValueError, match=r"none of the 3 files of words can be used, such as .*words/0002\.txt: no words"
    ):
        data.check_usable(MODALITIES)


def turn(path):
    path.write_bytes(to_npy(np.swapaxes(np.load(path), 0, 1)))


def test_of_one_turned_map_and_right_ones_the_odd_one_is_left_out(tmp_path):
    class Other(type(MODALITIES["b"])):
        pass

    modalities = {"a": MODALITIES["a"], "b": MODALITIES["b"], "c": Other("c")}
    write_data(tmp_path, modalities, sample_names(1))
    turn(tmp_path / "a/0000.npy")
    data = AlignedData(tmp_path, modalities)
    views = DrawnViews(ViewDrawer(modalities), data, 1).get("0000", 0)
    for name in ("b", "c"):
        data.array("0000", name, views["image"])
    with pytest.raises(BadFile, match=r"a/0000\.npy: a: width / height is 0.750, but 1.333 .* as b and c have it"):
        data.array("0000", "a", views["image"])


def test_where_one_says_this_and_one_says_that_both_are_named(tmp_path):
    modalities = fake_modalities(["a", "b"])
    write_data(tmp_path, modalities, sample_names(1))
    turn(tmp_path / "a/0000.npy")
    data = AlignedData(tmp_path, modalities)
    view = DrawnViews(ViewDrawer(modalities), data, 1).get("0000", 0)["image"]
    data.array("0000", "a", view)
    with pytest.raises(BadFile, match=r"b/0000\.npy: b: .* as a has it, .*a/0000\.npy: one of the two is wrong"):
        data.array("0000", "b", view)


def test_where_files_disagree_what_more_modalities_read_counts(tmp_path):
    pixels = fake_modalities(["a", "a@pixels"])
    more = {"z": type(pixels["a"])("z"), "z@pixels": type(pixels["a@pixels"])("z@pixels"), "b": MODALITIES["b"]}
    write_data(tmp_path, more, sample_names(1))
    turn(tmp_path / "b/0000.npy")
    assert ViewDrawer(more).aspects(AlignedData(tmp_path, more), "0000") == {"image": 16 / 12}

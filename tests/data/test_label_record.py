"""Labels of one folder are made in one way, or the user hears of it."""

import pytest
from fourm_depth import Depth
from fourm_normal import Normal

from fourm_engine.data.raw.label_files import record_labels


def record(folder, *, model=None, png_unit=0.001, **options):
    depth = Depth("depth", image_size=32, patch_size=8, png_unit=png_unit)
    record_labels(folder, depth, Normal("normal", image_size=32, patch_size=8), model=model, options=options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fov": 50.0}, r"--option normal\.fov was 60\.0, is 50\.0"),
        ({"fov": 60.0, "model": "other"}, '--model normal was null, is "other"'),
        ({"fov": 60.0, "png_unit": 0.5}, r"modalities\.settings\.depth\.png_unit was 0\.001, is 0\.5"),
        ({}, r"--option normal\.fov was 60\.0, is not set"),
    ],
)
def test_labels_made_otherwise_are_refused_by_what_differs(tmp_path, changes, message):
    record(tmp_path, fov=60.0)
    (tmp_path / "0.png").touch()
    record(tmp_path, fov=60.0)
    with pytest.raises(ValueError, match=rf"\.made\.json: {message}; restore it, or move .* away to label again"):
        record(tmp_path, **changes)


def test_a_folder_without_labels_may_be_labelled_in_any_way(tmp_path):
    record(tmp_path, fov=60.0)
    record(tmp_path, fov=50.0)


def test_a_damaged_note_is_named(tmp_path):
    (tmp_path / ".made.json").write_text("[")
    (tmp_path / "0.png").touch()
    with pytest.raises(ValueError, match=r"\.made\.json: says how labels were made, and cannot be read"):
        record(tmp_path)

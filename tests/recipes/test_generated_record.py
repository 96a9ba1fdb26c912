"""Results of many samples go where no other files are."""

import pytest

from fourm_engine.recipes.generated_record import Record


def test_the_folder_of_a_run_takes_no_results(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="the folder of a run; choose another --out"):
        Record(tmp_path, {}, [], part=0, parts=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]

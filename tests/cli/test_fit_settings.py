"""`fourm tokenizer fit` compares the settings of all tokenizers before it reads or fits anything."""

import pytest

from fourm_engine.cli.tokenizer import fit
from tests.configs import GRID, small, store
from tests.folders import write_examples

SMALL = {**GRID, "image_size": 16, "codebook_size": 8}


@pytest.fixture
def raw(tmp_path):
    """A config of classes, and files of depth and classes."""
    for name in ("depth", "semseg"):
        write_examples(tmp_path / "data" / name, name, 6)
    settings = {"depth": SMALL, "semseg": {**SMALL, "num_classes": 200}}
    return small(tmp_path, settings, modalities={"select": ["semseg"]})


def test_a_setting_that_changed_is_told_before_any_tokenizer_is_fitted_and_any_file_is_read(tmp_path, raw):
    config = store(tmp_path / "config.yaml", raw)
    fit(config)
    raw["modalities"]["select"] = ["depth", "semseg"]
    raw["modalities"]["settings"]["semseg"]["ignore"] = 254  # and now no file of the classes can be read
    store(config, raw)
    with pytest.raises(ValueError, match=r"settings\.semseg\.ignore was 255, is 254; .*--refit"):
        fit(config)
    assert not (tmp_path / "tokenizers" / "depth").exists()


def test_training_files_that_changed_under_their_names_are_told_and_fitted_again_on_request(tmp_path, raw, caplog):
    config = store(tmp_path / "config.yaml", raw)
    fit(config)
    (tmp_path / "data/semseg/1.png").write_bytes((tmp_path / "data/semseg/0.png").read_bytes())
    fitted = (tmp_path / "tokenizers/semseg/tokenizer.json").read_text()
    fit(config)
    assert "training files of semseg have another size or time than when it was fitted; it is kept" in caplog.text
    assert (tmp_path / "tokenizers/semseg/tokenizer.json").read_text() == fitted
    fit(config, refit=True)
    assert (tmp_path / "tokenizers/semseg/tokenizer.json").read_text() != fitted
    caplog.clear()
    fit(config)
    assert "another size or time" not in caplog.text

"""`fourm tokenizer fit` compares the settings of all tokenizers before it reads or fits anything."""

import pytest
import yaml

from fourm_engine.cli.tokenizer import fit
from tests.plugins.instances import modality

CODEC = {"encoder": {"blocks": 0, "width": 16}, "decoder": {"blocks": 1, "width": 16}}
SMALL = {"image_size": 16, "patch_size": 8, "codebook_size": 8, "tokenizer": CODEC}


@pytest.fixture
def raw(tmp_path):
    """A config of classes, and files of depth and classes."""
    for name in ("depth", "semseg"):
        for index, files in enumerate(modality(name).example_samples(6, seed=0)):
            for extension, content in files.items():
                path = tmp_path / "data" / name / f"{index}.{extension}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    return {
        "run": str(tmp_path / "run"),
        "modalities": {"select": ["semseg"], "settings": {"depth": SMALL, "semseg": {**SMALL, "num_classes": 200}}},
        "data": {"train": str(tmp_path / "data")},
        "tokenizers": {
            "folder": str(tmp_path / "tokenizers"),
            "fit": {"steps": 2, "batch_size": 2, "device": "cpu", "threads": 1},
        },
        "masking": {},
        "model": {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2},
        "train": {"batch_size": 2, "steps": 2, "lr": 1e-3},
    }


def test_a_setting_that_changed_is_told_before_any_tokenizer_is_fitted_and_any_file_is_read(tmp_path, raw):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw))
    fit(config)
    raw["modalities"]["select"] = ["depth", "semseg"]
    raw["modalities"]["settings"]["semseg"]["ignore"] = 254  # and now no file of the classes can be read
    config.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=r"settings\.semseg\.ignore was 255, is 254; .*--refit"):
        fit(config)
    assert not (tmp_path / "tokenizers" / "depth").exists()


def test_training_files_that_changed_under_their_names_are_told_and_fitted_again_on_request(tmp_path, raw, caplog):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw))
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

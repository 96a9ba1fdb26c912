"""A folder of tokens that is misspelt is an error before anything is trained."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from fourm_engine.cli import app
from fourm_engine.recipes.config import load_config
from fourm_engine.recipes.tokens_there import check_tokens_there


@pytest.fixture
def config(tmp_path):
    def make(**data):
        raw = {
            "run": str(tmp_path / "run"),
            "data": {"train": str(tmp_path / "data"), **data},
            "tokenizers": {"folder": str(tmp_path / "tokenizers")},
            "masking": {"input_tokens": 8, "target_tokens": 8},
            "model": {"width": 32, "encoder_blocks": 1, "decoder_blocks": 2, "heads": 2},
            "train": {"batch_size": 4, "steps": 10, "lr": 1e-3, "device": "cpu"},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
        return load_config(tmp_path / "config.yaml")

    (tmp_path / "data").mkdir()
    (tmp_path / "tokens/photos").mkdir(parents=True)
    return make


@pytest.mark.parametrize(
    ("named", "meant"), [("tokens/phtos", "tokens/photos"), ("token/photos", "tokens/photos"), ("elsewhere", None)]
)
def test_a_folder_of_tokens_that_is_not_there_is_an_error_that_names_the_nearest(config, tmp_path, named, meant):
    with pytest.raises(ValueError, match=r"^data\.tokens: ") as caught:
        check_tokens_there(config(tokens=str(tmp_path / named)), {})
    said = f"did you mean {tmp_path / meant}? If not, " if meant else ""
    assert str(caught.value) == (
        f"data.tokens: {tmp_path / named} is not there; {said}run `fourm tokenize`, which writes it, or set "
        f"data.tokens=null to tokenize each sample when it is read"
    )


def test_the_tokens_of_an_entry_of_a_list_are_named_by_its_number(config, tmp_path):
    entries = [
        {"path": str(tmp_path / "data"), "tokens": str(tmp_path / "tokens" / name)} for name in ("photos", "phtos")
    ]
    with pytest.raises(ValueError, match=r"^data\.train\.1\.tokens: .*phtos is not there; did you mean .*photos\?"):
        check_tokens_there(config(train=entries), {})


def test_tokens_that_are_there_and_the_place_that_init_writes_are_no_error(config, tmp_path, monkeypatch):
    check_tokens_there(config(tokens=str(tmp_path / "tokens/photos")), {})
    check_tokens_there(config(tokens=str(tmp_path / "run/tokens")), {})
    check_tokens_there(config(), {})
    check_tokens_there(config(train=None, tokens=str(tmp_path / "none")), {})  # which is another error
    monkeypatch.chdir(tmp_path)
    check_tokens_there(config(tokens="run/tokens"), {})


def test_training_ends_with_that_line(config, tmp_path):
    config(tokens=str(tmp_path / "tokens/phtos"))
    raw = yaml.safe_load((tmp_path / "config.yaml").read_text()) | {"modalities": {"select": ["rgb"]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    result = CliRunner().invoke(app, ["train", str(tmp_path / "config.yaml")])
    assert isinstance(result.exception, ValueError)
    assert "did you mean" in str(result.exception)
    assert not list((tmp_path / "run").glob("*"))

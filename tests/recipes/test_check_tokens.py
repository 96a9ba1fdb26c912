"""A folder of tokens that is misspelt is an error before anything is trained."""

from __future__ import annotations

import pytest
import yaml

from fourm_engine.recipes.check_tokens import check_tokens_exist
from fourm_engine.recipes.config import load_config
from tests.configs import small, store
from tests.running import refused


@pytest.fixture
def config(tmp_path):
    def make(**data):
        return load_config(store(tmp_path / "config.yaml", small(tmp_path, data=data)))

    (tmp_path / "data").mkdir()
    (tmp_path / "tokens/photos").mkdir(parents=True)
    return make


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ("tokens/phtos", "tokens/photos"),
        ("token/photos", "tokens/photos"),
        ("token/other", None),
        ("elsewhere", None),
    ],
)
def test_a_folder_of_tokens_that_is_not_there_is_an_error_that_names_the_nearest(config, tmp_path, named, meant):
    with pytest.raises(ValueError, match=r"^data\.tokens: ") as caught:
        check_tokens_exist(config(tokens=str(tmp_path / named)), {})
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
        check_tokens_exist(config(train=entries), {})


def test_tokens_that_are_there_and_the_place_that_init_writes_are_no_error(config, tmp_path, monkeypatch):
    check_tokens_exist(config(tokens=str(tmp_path / "tokens/photos")), {})
    check_tokens_exist(config(tokens=str(tmp_path / "run/tokens")), {})
    check_tokens_exist(config(), {})
    check_tokens_exist(config(train=None, tokens=str(tmp_path / "none")), {})  # which is another error
    monkeypatch.chdir(tmp_path)
    check_tokens_exist(config(tokens="run/tokens"), {})


def test_training_ends_with_that_line(config, tmp_path):
    config(tokens=str(tmp_path / "tokens/phtos"))
    raw = yaml.safe_load((tmp_path / "config.yaml").read_text()) | {"modalities": {"select": ["rgb"]}}
    store(tmp_path / "config.yaml", raw)
    assert "did you mean" in refused("train", tmp_path / "config.yaml")
    assert not list((tmp_path / "run").glob("*"))

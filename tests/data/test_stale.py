"""Tokens that a refit has made stale are told once, whatever the number of folders and modalities."""

from __future__ import annotations

import pytest

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.stale import check_fresh
from fourm_engine.data.tokens.tokenize import tokenize_split
from tests.fakes import LevelsTokenizer, fake_modalities, fake_tokenizers, sample_names, write_data

MODALITIES = fake_modalities(["a", "words"])
TOKENIZERS = fake_tokenizers(MODALITIES)


class Refitted(LevelsTokenizer):
    salt = "-refitted"


@pytest.fixture
def folders(tmp_path):
    write_data(tmp_path / "raw", MODALITIES, dict.fromkeys(MODALITIES, sample_names(3)))
    made = [tmp_path / "tokens" / part for part in ("train", "val")]
    for folder in made:
        tokenize_split(AlignedData(tmp_path / "raw", MODALITIES), folder, TOKENIZERS, DataConfig())
    return [(folder, MODALITIES) for folder in (*made, tmp_path / "not-tokenized")]


def test_tokens_of_these_tokenizers_are_fresh(folders):
    check_fresh(folders, TOKENIZERS)


def test_all_folders_are_told_in_one_line(folders, tmp_path):
    refitted = {name: Refitted([modality.spec]) for name, modality in MODALITIES.items()}
    with pytest.raises(ValueError, match="made by tokenizer fake_levels, but the tokenizer of a is") as caught:
        check_fresh(folders, refitted)
    said, stale = str(caught.value), [tmp_path / "tokens" / part for part in ("train/a", "train/words", "val/a")]
    assert "\n" not in said
    assert f"remove {stale[0]} and run `fourm tokenize` again" in said
    assert said.endswith(f"; stale, too: {stale[1]}, {stale[2]}, {tmp_path / 'tokens/val/words'}")


def test_one_folder_is_told_alone_and_other_settings_count_as_well(folders, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"the tokenizer it was made by$"):
        check_fresh(folders[:1], {**TOKENIZERS, "words": Refitted([MODALITIES["words"].spec])})
    changed = MODALITIES["a"].identity() | {"ids_version": "2"}
    monkeypatch.setattr(MODALITIES["a"], "identity", lambda: changed)
    with pytest.raises(ValueError, match="ids_version of a was") as caught:
        check_fresh(folders, TOKENIZERS)
    assert str(caught.value).endswith(f"; stale, too: {tmp_path / 'tokens/val/a'}")

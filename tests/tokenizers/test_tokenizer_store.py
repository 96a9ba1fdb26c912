"""Fitted tokenizers on disk."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from fourm_engine.tokenizers.store import load_tokenizer, load_tokenizers, read_document, save_tokenizer
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from tests.grids import SMALL, Host, Known, features, map_spec, ramps, text_spec


@pytest.fixture
def grid():
    torch.manual_seed(0)
    made = VQVAETokenizer([map_spec(features())], **SMALL)
    made.network.quantiser.codes.normal_()
    return made


@pytest.fixture
def text():
    made = WordPieceTokenizer([text_spec("caption"), text_spec("boxes")], coordinate_bins=64)
    made.fit(lambda: ["a red cube", "a red sphere"])
    return made


def test_loading_gives_the_same_ids_and_fingerprint(grid, text, tmp_path):
    members = {spec.name: Known(spec) for spec in (*grid.specs, *text.specs)}
    save_tokenizer(grid, tmp_path / "map", manager=Host(), modalities=[members["map"]])
    save_tokenizer(text, tmp_path / "text", manager=Host(), modalities=[members["caption"]])
    found = load_tokenizers(tmp_path, {"map": grid.specs, "text": text.specs}, Host(), modalities=members)
    assert sorted(found) == ["boxes", "caption", "map"]
    assert found["boxes"] is found["caption"]
    assert found["map"].fingerprint == grid.fingerprint
    assert found["caption"].fingerprint == text.fingerprint
    assert np.array_equal(found["map"].encode(ramps(3)), grid.encode(ramps(3)))
    assert np.array_equal(found["caption"].encode(["a cube"]), text.encode(["a cube"]))


def test_saving_replaces_at_once_and_leaves_nothing_else(grid, tmp_path):
    save_tokenizer(grid, tmp_path / "map", manager=Host())
    grid.network.quantiser.codes.normal_()
    save_tokenizer(grid, tmp_path / "map", manager=Host(), fit={"note": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["map"]
    assert load_tokenizer(tmp_path / "map", grid.specs, Host()).fingerprint == grid.fingerprint
    assert read_document(tmp_path / "map")["fit"] == {"note": 1}


def test_a_failed_save_leaves_the_old_one(grid, tmp_path, monkeypatch):
    save_tokenizer(grid, tmp_path / "map", manager=Host())
    before = grid.fingerprint

    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr(grid, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_tokenizer(grid, tmp_path / "map", manager=Host())
    assert [path.name for path in tmp_path.iterdir()] == ["map"]
    assert load_tokenizer(tmp_path / "map", grid.specs, Host()).fingerprint == before


def test_an_unknown_kind_names_the_package_to_install(grid, tmp_path):
    save_tokenizer(grid, tmp_path / "map", manager=Host())
    path = tmp_path / "map" / "tokenizer.json"
    document = json.loads(path.read_text()) | {"kind": "wavelet", "distribution": "fourm-wavelets"}
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"'wavelet' was saved by fourm-wavelets.*pip install fourm-wavelets"):
        load_tokenizer(tmp_path / "map", grid.specs, Host())


def test_changed_weights_are_noticed(grid, tmp_path):
    save_tokenizer(grid, tmp_path / "map", manager=Host())
    grid.network.quantiser.codes.normal_()
    grid.save(tmp_path / "map")
    load = partial(load_tokenizer, tmp_path / "map", grid.specs, Host())
    said = "map is not the one that was saved .*: its files were changed, or "
    with pytest.raises(ValueError, match=rf"{said}the code of fourm-engine 0\.0\.1 was changed; fit it again$"):
        load()
    path = tmp_path / "map/tokenizer.json"
    path.write_text(path.read_text().replace('"0.0.1"', '"0.0.2"'))
    with pytest.raises(ValueError, match=rf"{said}fourm-engine 0\.0\.2 saved it and fourm-engine 0\.0\.1 loads it"):
        load()


def test_a_modality_of_another_size_is_told_what_differs(grid, tmp_path):
    save_tokenizer(grid, tmp_path / "map", manager=Host())
    with pytest.raises(ValueError, match=r"fitted for map with array.*channels=3.*now.*channels=2"):
        load_tokenizer(tmp_path / "map", [map_spec(features(2))], Host())


def test_a_missing_tokenizer_says_how_to_fit_it(tmp_path):
    with pytest.raises(ValueError, match="no fitted tokenizer for map; run `fourm tokenizer fit`"):
        load_tokenizer(tmp_path / "map", [map_spec(features())], Host())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "kind": 3}'])
def test_a_damaged_description_is_named_in_words(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer's description: .*; fit it again$") as error:
        load_tokenizer(tmp_path, [map_spec(features())], Host())
    assert "Error(" not in str(error.value)


@pytest.mark.parametrize("kind", ["the same modality", "one that joined the space later"])
def test_a_tokenizer_is_not_loaded_under_another_recipe(text, tmp_path, kind):
    save_tokenizer(text, tmp_path / "text", manager=Host(), modalities=[Known(text_spec("caption"))])
    name = "caption" if kind == "the same modality" else "boxes"
    now = Known(text_spec(name, settings={"coordinate_bins": 99}))
    with pytest.raises(ValueError, match=r"text: .*coordinate_bins.* was not set, is 99; .*--refit"):
        load_tokenizers(tmp_path, {"text": [now.spec]}, Host(), modalities={name: now})

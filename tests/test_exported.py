"""An exported model on disk: what it keeps, and what a damaged or hostile one cannot do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fourm_engine import exported
from fourm_engine.model import FourM
from fourm_engine.recipes.evaluate import evaluate
from tests.generate.toys import heights, install, picture, uninstall


def test_a_saved_model_computes_the_same_bit_for_bit(model, tmp_path):
    model.save_pretrained(tmp_path / "run" / "model")
    loaded = FourM.from_pretrained(tmp_path / "run", device="cpu")
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    inputs = {"colour": picture(), "words": "abc"}
    a, b = (m.generate(inputs, ["height", "pose"], seed=3, steps=2) for m in (model, loaded))
    assert all(np.array_equal(a[t].tokens, b[t].tokens) for t in a)
    assert torch.equal(model.encode([inputs])[0], loaded.encode([inputs])[0])
    assert loaded.missing == {}
    assert loaded.modalities["colour@pixels"].settings.pixels


def test_saving_again_replaces_an_export_and_nothing_else(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors", "tokenizers"]
    assert [p.name for p in tmp_path.iterdir() if p.name != "site"] == ["model"]
    (tmp_path / "model" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "thesis.txt").exists()
    with pytest.raises(OSError, match=r"thesis\.txt: cannot be written: a file is there, not a folder; move it away"):
        model.save_pretrained(tmp_path / "model" / "thesis.txt")


def test_a_failed_save_leaves_the_earlier_export(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr("fourm_engine.exported.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name != "site"] == ["model"]


def test_a_plugin_that_is_not_installed_is_named_when_it_is_needed(model, site, tmp_path):
    model.save_pretrained(tmp_path / "model")
    uninstall(site, "height")
    loaded = FourM.from_pretrained(tmp_path / "model", device="cpu")
    assert list(loaded.missing) == ["height"]
    assert loaded.generate({"colour": picture()}, ["pose"])["pose"].tokens.shape == (3,)
    with pytest.raises(ValueError, match=r"'height'.*\(toy-height 1\.0\) is not installed: pip install toy-height"):
        loaded.generate({"colour": picture()}, ["height"])
    with pytest.raises(ValueError, match="pip install toy-height"):
        loaded.generate({"height": heights()}, ["pose"])


def test_a_missing_modality_survives_saving_and_is_there_again_once_installed(model, site, tmp_path):
    model.save_pretrained(tmp_path / "a")
    uninstall(site, "height")
    FourM.from_pretrained(tmp_path / "a", device="cpu").save_pretrained(tmp_path / "b")
    install(site, ["height"], kinds=False)
    loaded = FourM.from_pretrained(tmp_path / "b", device="cpu")
    assert loaded.missing == {}
    out = (m.generate({"colour": picture()}, ["height"])["height"].tokens for m in (model, loaded))
    assert np.array_equal(*out)


def test_domains_loads_these_alone(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = FourM.from_pretrained(tmp_path / "model", device="cpu", domains=["colour@pixels", "height"])
    assert list(loaded.modalities) == ["colour@pixels", "height"]
    with pytest.raises(ValueError, match="left out by domains"):
        loaded.generate({}, ["words"])
    with pytest.raises(ValueError, match="did you mean 'height'"):
        FourM.from_pretrained(tmp_path / "model", domains=["hieght"])


def edit(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_plugin_that_changed_is_refused_field_by_field(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", lambda c: c["modalities"]["height"].update(version="0.3"))
    edit(tmp_path / "model", lambda c: c["modalities"]["height"]["spec"].update(expected_decoding=False))
    with pytest.raises(ValueError, match=r"toy-height 0\.3, now toy-height 1\.0.*expected_decoding: false -> true"):
        FourM.from_pretrained(tmp_path / "model")


def test_a_model_that_was_written_when_compiling_was_a_setting_of_it_loads(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", lambda config: config["model"].update(compile=False))
    assert FourM.from_pretrained(tmp_path / "model", device="cpu").network.config == model.network.config


def test_a_new_description_of_a_plugin_changes_nothing(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", lambda c: c["modalities"]["height"]["spec"].update(description="older words"))
    assert FourM.from_pretrained(tmp_path / "model", device="cpu").missing == {}


def test_another_tokenizer_than_the_model_was_trained_with_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", lambda c: c["tokenizers"].update(height="0123456789abcdef"))
    with pytest.raises(ValueError, match="tokenizer 'height' has fingerprint"):
        FourM.from_pretrained(tmp_path / "model")


def test_tensors_that_do_not_fit_are_named(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["extra"] = torch.zeros(1)
    del tensors["encoder.0.norm1.weight"]
    tensors["heads.weight"] = tensors["heads.weight"][:-1].clone()
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"norm1\.weight is missing; extra is unknown; heads\.weight has shape"):
        FourM.from_pretrained(tmp_path / "model")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        FourM.from_pretrained(tmp_path / "model")


def stretch(config):
    """Positions without end, which are computed and not in the file of weights."""
    config["model"]["width"] = 1 << 15
    row = next(row for row in config["vocabulary"] if row["name"] == "words")
    row["layout"]["max_tokens"] = config["modalities"]["words"]["spec"]["layout"]["max_tokens"] = 8192


HOSTILE = {
    "positions without end": stretch,
    "an importable path for a plugin": lambda c: c["modalities"]["pose"].update(plugin="os:system"),
    "a class to import": lambda c: c["modalities"]["pose"].update(class_path="os.system"),
    "a command for a distribution": lambda c: c["modalities"]["pose"].update(distribution="x; touch /tmp/owned"),
    "a path for a token space": lambda c: c["tokenizers"].update({"../../etc": "x"}),
    "rows beyond the table": lambda c: c["vocabulary"][0].update(stop=10**12),
    "a modality without rows": lambda c: c["modalities"].pop("pose"),
    "a number for a list": lambda c: c.update(vocabulary=3),
    "a list for the model": lambda c: c.update(model=[1, 2]),
    "a width of a billion": lambda c: c["model"].update(width=10**9),
    "a million blocks": lambda c: c["model"].update(encoder_blocks=10**6),
    "a text for a width": lambda c: c["model"].update(width="32"),
    "another version": lambda c: c.update(version=1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_config_is_refused_in_one_line_and_imports_nothing(model, tmp_path, what):
    model.save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", HOSTILE[what])
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        FourM.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not {name for name in set(sys.modules) - before if not name.startswith(("fourm", "tests"))}


def test_a_plugin_name_that_nothing_provides_is_merely_missing(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", lambda c: c["modalities"]["pose"].update(plugin="antigravity"))
    loaded = FourM.from_pretrained(tmp_path / "model", device="cpu")
    assert list(loaded.missing) == ["pose"]
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"format": "fourm"}'])
def test_a_config_that_is_none_is_refused(model, tmp_path, text):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: \w.*; it is damaged"):
        FourM.from_pretrained(tmp_path / "model")


def test_a_folder_without_a_model_is_told_apart_from_a_hub_id(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no exported model"):
        FourM.from_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        FourM.from_pretrained(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.yaml", "train: {}", "here holds no exported model yet; finish it first: fourm train .*config.yaml"),
        ("config.yaml", "task: {}", "finish it first: fourm finetune .*config.yaml"),
        ("tokenizer.json", "{}", "here: holds a tokenizer, not a model; name the folder of a run"),
        ("head/config.json", "{}", "holds a trained task, not a model; fourm predict"),
        ("a/model/config.json", "{}", r"did you mean .*here/a\?$"),
    ],
)
def test_a_folder_of_something_else_is_told_for_what_it_is(tmp_path, file, content, says):
    (tmp_path / "here" / file).parent.mkdir(parents=True)
    (tmp_path / "here" / file).write_text(content)
    with pytest.raises(ValueError, match=says):
        evaluate(tmp_path / "here")  # before its config is looked at
    with pytest.raises(ValueError, match=says):
        exported.locate(tmp_path / "here")


def test_a_hub_id_fetches_json_and_safetensors_alone(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "model")
    asked = {}

    def snapshot_download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(tmp_path / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    FourM.from_pretrained("someone/scenes", device="cpu", revision="v1")
    assert asked == {"repo_id": "someone/scenes", "revision": "v1", "allow_patterns": ["*.json", "*.safetensors"]}


def test_the_reason_of_the_hub_ends_at_a_word_and_is_never_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a checkout in which `make demo` was run has a folder runs
    reasons = iter(["ConnectError: " + "unreachable " * 40, ""])

    def snapshot_download(repo_id, **options):
        raise OSError(next(reasons))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match=r"runs/none: no such folder, .*: ConnectError: (unreachable )+…$"):
        FourM.from_pretrained("runs/none")
    with pytest.raises(ValueError, match=r"could not provide it: OSError$"):
        FourM.from_pretrained("runs/none")

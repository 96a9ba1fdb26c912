"""`fourm plugins doctor`: what is wrong with the environment, a config or a model, and its remedy."""

from __future__ import annotations

import json

import pytest

from fourm_engine.installed import doctor
from tests.cli.config_file import write_config
from tests.sdk.sites import GOOD, entry
from tests.trust.test_hostile_checkpoints import vqvae  # noqa: F401 (a fixture: a folder with a fitted tokenizer)


def checks(text: str) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(text)}


def test_doctor_finds_this_very_environment_well(fourm):
    code, text = fourm("plugins", "doctor", "boxes", "--json")
    found = checks(text)
    assert (code, [c for c in found.values() if c["state"] == "bad"]) == (0, [])
    assert found["gloo"]["detail"] == "2 processes added a number"
    assert found["torch"]["detail"].endswith("a product is right")
    assert found["modality boxes"]["detail"].startswith("fourm-boxes 0.1.0, activated in")
    assert "GiB free" in found["writing temporary files"]["detail"]
    assert {"python", "requirements of fourm-engine", "requirements of fourm-boxes", "writing the model cache"} <= set(
        found
    )


def test_doctor_fails_for_what_is_selected_and_tells_of_what_is_not(fourm, states, tmp_path, without_hardware):
    config = str(write_config(tmp_path, modalities={"select": ["belated"]}))
    code, text = fourm("plugins", "doctor", "--config", config, "--json")
    found = checks(text)
    assert code == 1
    assert found["modality belated"]["state"] == "bad"
    assert "broken: ZeroDivisionError" in found["modality belated"]["detail"]
    assert "--no-plugin belated" in found["modality belated"]["remedy"]
    assert (found["modality shattered"]["state"], found["modality aged"]["state"]) == ("note", "note")
    assert found["modality shattered"]["detail"].endswith("not selected")
    assert found["modalities"]["detail"].startswith("not looked at")
    code, text = fourm("plugins", "doctor", "okay")
    assert code == 0
    assert text.splitlines()[-1].endswith("checks, 0 bad")
    with pytest.raises(ValueError, match="did you mean 'okay'"):
        fourm("plugins", "doctor", "okey")


def test_doctor_looks_for_the_files_that_a_config_names(fourm, tmp_path, without_hardware, vqvae):  # noqa: F811
    for folder in ("caption", "boxes"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    text = {"vocabulary": str(tmp_path / "nowhere.json")}
    settings = {"caption": {"text": text}, "boxes": {"text": text}}
    data = {"train": str(tmp_path / "data"), "val": str(tmp_path / "empty"), "tokens": "/proc/no/tokens"}
    select = {"select": ["caption", "boxes"], "settings": settings}
    (tmp_path / "empty").mkdir()
    config = str(write_config(tmp_path, modalities=select, data=data))
    code, out = fourm("plugins", "doctor", "boxes", "--config", config, "--json", "--model", "owner/no-such-model")
    found = checks(out)
    assert code == 1
    assert found["modalities"]["detail"] == "boxes, caption take part"
    assert found["tokenizer text, vocabulary"]["state"] == "bad"
    assert "nowhere.json, which is not there" in found["tokenizer text, vocabulary"]["detail"]
    assert found["tokenizer text"]["state"] == "note"
    assert found["tokenizer text"]["remedy"] == "fourm tokenizer fit"
    assert (found["data.train"]["state"], found["data.val"]["state"]) == ("ok", "bad")
    assert found["writing tokens"]["state"] == "bad"
    assert found["model owner/no-such-model"]["detail"] == "the cache lacks config.json, model.safetensors"
    assert not (tmp_path / "run").exists()


def test_doctor_loads_the_tokenizers_that_are_fitted(fourm, install, tmp_path, without_hardware, vqvae):  # noqa: F811
    folder, spec = vqvae
    grid = "layout=Grid(height=2, width=2)"
    source = GOOD.replace("TokenSpace(name=self.name, size=self.settings.codes)", "TokenSpace(name='height', size=8)")
    assert grid in source
    source = source.replace("height=4, width=4", "height=8, width=8")
    install("acme-height", entry("height", "acme_height:Thermal"), source=source)
    config = str(write_config(tmp_path, modalities={"select": ["height"]}, tokenizers={"folder": str(folder.parent)}))
    assert spec.array.height == 8
    arguments = ("plugins", "doctor", "height", "--config", config, "--json")
    assert "fingerprint" in checks(fourm(*arguments)[1])["tokenizer height"]["detail"]
    (folder / "weights.safetensors").write_bytes(b"\x80\x04K\x01.")
    assert checks(fourm(*arguments)[1])["tokenizer height"]["state"] == "bad"


def test_doctor_knows_a_model_in_a_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert next(doctor.check_model(str(tmp_path))).detail == "the folder lacks model.safetensors"
    (tmp_path / "model.safetensors").write_text("")
    assert next(doctor.check_model(str(tmp_path))).state == "ok"
    assert next(doctor.check_model("no id at all")).state == "bad"


def test_doctor_tells_requirements_that_are_not_met_and_what_is_optional(install, tmp_path):
    install("acme-a", entry("a", "acme_a:Thermal"), requires="numpy>=999")
    install("acme-b", entry("b", "acme_b:Thermal"), requires="no-such-package; extra == 'more'")
    metadata = tmp_path / "acme_b-1.2.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Provides-Extra: more\n")
    found = {check.name: check for check in doctor.check_requirements(["acme-a", "acme-b"])}
    assert found["requirements of acme-a"].state == "bad"
    assert found["requirements of acme-a"].detail.startswith("numpy>=999: installed is ")
    assert found["requirements of acme-b"].state == "ok"
    assert found["optional acme-b[more]"].state == "note"
    assert found["optional acme-b[more]"].remedy == "pip install 'acme-b[more]'"


def test_doctor_notes_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_FREE", 1 << 60)
    (check,) = doctor.check_writable({"the run": tmp_path / "not/there/yet"})
    assert (check.state, check.remedy) == ("note", "free space")
    assert list(tmp_path.iterdir()) == []

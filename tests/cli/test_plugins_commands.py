"""`fourm plugins …` and `--no-plugin`, as the one who installs meets them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fourm_engine.cli.app import app
from fourm_engine.installed import doctor
from fourm_engine.installed.describe import CONFORMANCE
from tests.recipes.test_config import MINIMAL
from tests.sdk.sites import GOOD, entry, put
from tests.trust.test_hostile_checkpoints import vqvae  # noqa: F401 (a fixture: a folder with a fitted tokenizer)

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def fourm(capfd, monkeypatch):
    """fourm(*arguments) -> (exit code, standard output), in this process."""
    monkeypatch.setenv("FOURM_DISABLE", "")  # and so restored, whatever --no-plugin makes of it

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = app(list(arguments), standalone_mode=False)
        return code or 0, capfd.readouterr().out

    return run


@pytest.fixture
def states(install):
    """One plugin in each state, but for disabled."""
    install("acme-ok", entry("okay", "acme_ok:Thermal"))
    install("acme-broken", entry("shattered", "acme_broken:Thermal"), source="")
    install("acme-old", entry("aged", "acme_old:Thermal", "fourm.modalities.v9"))
    install("acme-one", entry("contested", "acme_one:Thermal"))
    install("acme-two", entry("contested", "acme_two:Thermal"))
    install("acme-late", entry("belated", "acme_late:Thermal"), source="print('hello')\n1 / 0")


STATES = {"okay": "ok", "shattered": "broken", "aged": "incompatible", "contested": "conflict", "belated": "ok"}


def listed(text: str) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(text)}


def test_each_state_is_listed_with_reason_place_and_the_command_that_mends_it(states, fourm, tmp_path):
    code, text = fourm("plugins", "list", "--json", "--no-plugin", "okay")
    found = listed(text)
    assert code == 0
    assert {name: found[name]["state"] for name in STATES} == STATES | {"okay": "disabled"}
    assert found["shattered"]["location"] == str(tmp_path)
    assert found["shattered"]["remedy"] == "pip install --force-reinstall acme-broken"
    assert found["aged"]["remedy"] == "pip install -U acme-old fourm-engine"
    assert found["contested"]["reason"] == "claimed by acme-one and acme-two"
    assert "acme_late" not in sys.modules


def test_the_table_shows_the_same_and_its_commands_can_be_copied(states, fourm):
    _, text = fourm("plugins", "list")
    lines = text.splitlines()
    row = next(line.split() for line in lines if "shattered" in line)
    assert row[:5] == ["shattered", "modality", "broken", "acme-broken", "1.2"]
    assert "    pip install --force-reinstall acme-broken" in lines
    assert any(line.startswith("aged (modality, acme-old 1.2) incompatible: made for plugin API v9") for line in lines)


def test_strict_fails_on_any_state_but_ok(states, fourm, tmp_path):
    assert fourm("plugins", "list", "--strict")[0] == 1
    for distribution in ("broken", "old", "one"):
        for path in (tmp_path / f"acme_{distribution}-1.2.dist-info").iterdir():
            path.unlink()
    assert fourm("plugins", "list", "--strict")[0] == 0


def test_load_shows_what_breaks_on_import(install, fourm, monkeypatch):
    install("acme-late", entry("belated", "acme_late:Thermal"), source="print('hello')\n1 / 0")
    install("acme-slow", entry("slow", "acme_slow:Thermal"), source="import time; time.sleep(60)")
    # The installed ones would take their time, too.
    from fourm_plugins import manager

    only = []
    found = {p.name: p for p in manager.discover_all()[0]}
    monkeypatch.setattr(manager, "discover_all", lambda: (list(only), ()))
    only[:] = [found["slow"]]
    code, text = fourm("plugins", "list", "--json", "--load", "--strict", "--timeout", "1")
    assert code == 1
    assert listed(text)["slow"]["reason"] == "hangs: not activated after 1 s"
    only[:] = [found["belated"]]  # which has all the time that a busy machine needs
    code, text = fourm("plugins", "list", "--json", "--load", "--strict")
    belated = listed(text)["belated"]
    assert code == 1
    assert (belated["state"], belated["printed"]) == ("broken", "hello")
    assert belated["reason"] == "ZeroDivisionError: division by zero"
    assert 'acme_late.py", line 2' in belated["detail"]
    _, table = fourm("plugins", "list", "--load")
    assert "ZeroDivisionError: division by zero" in table


def test_leftovers_and_misspelt_groups_are_told_by_list_and_doctor(install, fourm, tmp_path, without_hardware):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal", "fourm.modality.v1"))
    shutil.copytree(tmp_path / "acme_thermal-1.2.dist-info", tmp_path / "~cme_thermal-0.9.dist-info")
    for command in (("list",), ("doctor", "grid")):
        _, text = fourm("plugins", *command)
        assert "~cme_thermal-0.9.dist-info" in text
        assert f"rm -r '{tmp_path}/~cme_thermal-0.9.dist-info'" in text
        assert "the group 'fourm.modality.v1', which nothing reads; the right one is 'fourm.modalities.v1'" in text


def write_config(folder: Path, **sections) -> Path:
    raw = MINIMAL | {"run": str(folder / "run"), "tokenizers": {"folder": str(folder / "tokenizers")}} | sections
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder / "config.yaml"


def test_a_configs_choices_count(states, fourm, tmp_path):
    config = write_config(tmp_path, modalities={"disable": ["okay"], "providers": {"contested": "acme-two"}})
    found = json.loads(fourm("plugins", "list", "--json", "--config", str(config))[1])
    states = {(row["name"], row["distribution"]): row["state"] for row in found}
    assert states["okay", "acme-ok"] == "disabled"
    assert (states["contested", "acme-one"], states["contested", "acme-two"]) == ("disabled", "ok")


def test_listing_many_plugins_imports_neither_them_nor_anything_heavy(tmp_path):
    for i in range(50):
        put(tmp_path, f"acme-m{i}", entry(f"m{i}", f"acme_m{i}:Thermal"), requires="fourm-engine>=0.1")
    code = (
        "import sys\nfrom fourm_engine.cli.app import app\n"
        "app(['plugins', 'list'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'safetensors', 'rich', 'PIL', 'yaml', 'fourm_rgb', 'fourm_plugins.spec'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not [name for name in sys.modules if name.startswith('acme_')]\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert sum("  acme-m" in line for line in done.stdout.splitlines()) == 50


def commands(group, path=()):
    for command in group.registered_commands:
        yield (*path, command.name), command.callback
    for inner in group.registered_groups:
        yield from commands(inner.typer_instance, (*path, inner.name))


def test_every_command_takes_no_plugin():
    import inspect

    found = dict(commands(app))
    assert {("train",), ("tokenize",), ("tokenizer", "fit"), ("label",), ("generate",), ("plugins", "list")} <= set(
        found
    )
    assert [path for path, callback in found.items() if "no_plugin" not in inspect.signature(callback).parameters] == []


@pytest.mark.parametrize("program", [["-m", "fourm_engine.cli", "train"], ["-m", "fourm_engine.train"]])
def test_no_plugin_acts_before_import_and_reaches_the_processes_that_are_started(tmp_path, program):
    put(tmp_path, "acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="raise SystemExit('imported')")
    config = write_config(tmp_path, modalities={"select": ["thermal"]})
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "FOURM_DISABLE": "rgb"}
    command = [sys.executable, *program, str(config), "--no-plugin", "thermal"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    said = "fourm: error: modality 'thermal' (acme-thermal 1.2) is disabled: named by --no-plugin, FOURM_DISABLE or "
    said += "modalities.disable; remove it there"
    assert done.stderr.splitlines()[-1] == said


def test_an_unknown_name_to_leave_out_is_an_error_with_the_nearest(fourm, monkeypatch):
    said = r"no installed plugin is called 'dept' \(--no-plugin, FOURM_DISABLE or modalities.disable\); .*'depth'\?"
    with pytest.raises(ValueError, match=said):
        fourm("plugins", "list", "--no-plugin", "dept")
    monkeypatch.setenv("FOURM_DISABLE", "rgb, dept")
    with pytest.raises(ValueError, match=said):
        fourm("plugins", "list")


# info


def test_info_says_all_that_a_plugin_says_of_itself(fourm):
    (found,) = json.loads(fourm("plugins", "info", "depth", "--json")[1])
    assert found["layout"] == {"kind": "grid", "height": 14, "width": 14}
    assert (found["tokens"], found["token space"]["size"]) == (196, 8192)
    assert (found["tokenizer"]["kind"], found["tokenizer"]["provided by"]) == ("vqvae", "fourm-engine 0.1.0")
    assert found["files"] == ["depth/<sample>.png", "depth/<sample>.npy"]
    assert found["licence"] == "Apache-2.0"
    assert {"name": "RMSE", "unit": "m", "better": "lower"} in found["metrics"]
    assert "log(depth) mapped linearly" in found["about"]
    assert found["normalisation"]["example"]["array"].startswith("float32 (1, 224, 224), -0.13")
    assert found["conformance"] is None
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert settings["png_unit"]["meaning"] == "Metres per count of the PNG."
    assert settings["patch_size"]["meaning"] == "Pixels per token: one number, or [height, width]."
    assert (settings["max_depth"]["default"], settings["max_depth"]["type"]) == (100.0, "float")


def test_info_of_a_configured_instance_shows_what_is_set_and_of_nested_settings_each(fourm, tmp_path):
    settings = {"big": {"plugin": "boxes", "max_boxes": 7, "text": {"vocabulary_size": 99}}}
    config = write_config(tmp_path, modalities={"settings": settings})
    (found,) = json.loads(fourm("plugins", "info", "big", "--json", "--config", str(config))[1])
    values = {setting["name"]: (setting["default"], setting["value"]) for setting in found["settings"]}
    assert values["max_boxes"] == (40, 7)
    assert values["text.vocabulary_size"] == (30_000, 99)
    assert found["token space"] == {"name": "text", "size": 99, "shared": True}
    assert "not in" in found["tokenizer"]["fitted"]
    text = fourm("plugins", "info", "big", "--config", str(config))[1]
    assert "text.vocabulary_size (int, default 30000, here 99)" in text
    assert "in sequence, decoded left to right" in text


def test_info_tells_the_fingerprint_of_a_fitted_tokenizer(fourm, install, vqvae):  # noqa: F811
    source = GOOD.replace("TokenSpace(name=self.name", "TokenSpace(name='height'")
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=source + EXAMPLES)
    (found,) = json.loads(fourm("plugins", "info", "thermal", "--json", "--run", str(vqvae[0].parent))[1])
    document = json.loads((vqvae[0] / "tokenizer.json").read_text())
    assert found["tokenizer"]["fitted"]["fingerprint"] == document["fingerprint"]
    assert found["normalisation"]["example"] == {
        "value": "float32 (4, 4), 0 to 0, mean 0",
        "array": "float32 (4, 4), 0 to 0, mean 0",
        "largest difference after denormalising": 0.0,
    }
    (vqvae[0] / "none").mkdir()
    with pytest.raises(ValueError, match="none: holds no fitted tokenizers"):
        fourm("plugins", "info", "thermal", "--run", str(vqvae[0] / "none"))


EXAMPLES = """
    def aspect(self, value): return 1.0
    def read(self, files):
        import numpy
        return numpy.zeros((4, 4), numpy.float32)
    def example_samples(self, n, seed): return [{"npy": b""}] * n
"""


def test_info_shows_the_report_of_the_conformance_kit(fourm, install, tmp_path):
    (tmp_path / "acme_package").mkdir()
    (tmp_path / "acme_package/__init__.py").write_text(GOOD)
    install("acme-package", entry("thermal", "acme_package:Thermal"), source="")
    counts = {"ran": 40, "failed": 1, "expected": 2, "not_claimed": 2, "not_run": 3}
    report = {"plugin": "acme-package", "modality": "thermal", "version": "1.1", **counts, "checks": []}
    path = tmp_path / "acme_package" / CONFORMANCE
    path.write_text(json.dumps(report))
    (found,) = json.loads(fourm("plugins", "info", "thermal", "--json")[1])
    note = {"note": "made with version 1.1, installed is 1.2"}
    assert found["conformance"] == {"report": str(path), "modality": "thermal", "version": "1.1", **counts, **note}
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{CONFORMANCE}: not a report"):
        fourm("plugins", "info", "thermal")


HOOKS = """
from fourm_plugins import hookimpl
class Best:
    "Keeps the best."
    @hookimpl
    def fourm_evaluated(self, run, step, scores): pass
def rate(step, *, steps, lr, min_lr, warmup, cooldown): return lr
def best(run: str):
    "Shows the best."
"""


def test_info_of_a_hook_says_how_a_config_names_it_and_its_options(fourm, install):
    entries = "[fourm.observers.v1]\nbest = acme_best:Best\n[fourm.commands.v1]\nbest = acme_best:best\n"
    entries += "[fourm.schedules.v1]\nflat = acme_best:rate\n"
    install("acme-best", entries, source=HOOKS)
    text = fourm("plugins", "info", "best")[1]
    assert "observer best: acme-best 1.2" in text
    assert "observers: [best]\nhooks             fourm_evaluated\n\n  Keeps the best." in text
    assert "fourm best --help\n\n  Shows the best." in text
    assert "train.schedule=flat" in fourm("plugins", "info", "flat")[1]
    assert "convolutions (int, default 4)" in fourm("plugins", "info", "fcos")[1]
    (found,) = json.loads(fourm("plugins", "info", "muon", "--json")[1])
    assert found["used as"] == "train.optimiser=muon"
    assert {"name": "momentum", "default": 0.95}.items() <= found["settings"][3].items()


def test_info_of_a_tokenizer_and_of_what_is_not_there(fourm):
    text = fourm("plugins", "info", "wordpiece")[1]
    assert text.startswith("tokenizer wordpiece: fourm-engine")
    assert "coordinate_bins (int, default 1000)\n      Steps into which box coordinates divide the width" in text
    with pytest.raises(ValueError, match=r"no installed plugin is called 'wordpeace'; did you mean 'wordpiece'\?"):
        fourm("plugins", "info", "wordpeace")


# doctor


def checks(text: str) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(text)}


@pytest.fixture
def without_hardware(monkeypatch):
    """Leaves out what another test does, since starting processes takes seconds."""
    from fourm_engine.installed import hardware

    monkeypatch.setattr(hardware, "check_processes", lambda: iter(()))


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

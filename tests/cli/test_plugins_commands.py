"""`fourm plugins list` and `--no-plugin`, as the one who installs meets them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fourm_engine.cli.app import app
from tests.cli.config_file import write_config
from tests.sdk.sites import entry, put

ROOT = str(Path(__file__).parents[2])


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

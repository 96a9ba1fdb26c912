"""The commands of docs/installing-plugins.md work as written, and it tells of every state."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
import yaml

from fourm_engine.cli.app import app
from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.modalities import ModalitiesConfig
from fourm_plugins import images
from fourm_plugins.discovery import State

PAGE = (Path(__file__).parents[1] / "docs/installing-plugins.md").read_text()
COMMANDS = [
    line.partition("#")[0].split()[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_works(command, monkeypatch, capsys):
    """Checks that start processes are left out: `fourm plugins doctor` and `--load` have tests of their own."""
    from fourm_engine.installed import doctor, hardware
    from fourm_plugins import probe

    monkeypatch.setenv("FOURM_DISABLE", "")
    monkeypatch.setattr(hardware, "check_processes", lambda: iter(()))
    for module in (doctor, probe):
        monkeypatch.setattr(module, "probe_all", lambda plugins, **_: [probe.Probe(p, 0.0) for p in plugins])
    assert not app(command, standalone_mode=False)
    assert (command[2] if command[:2] == ["plugins", "info"] else "depth") in capsys.readouterr().out


def test_the_page_tells_of_every_state_and_only_of_those():
    assert re.findall(r"^\| (\w+) \|", PAGE, re.MULTILINE)[1:] == list(typing.get_args(State))


def test_the_page_tells_of_every_extra_that_users_install():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    section = project.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", section, re.MULTILINE)) - {"dev", "demo", "conformance"}
    assert extras == set(re.findall(r"(?:fourm-engine|`)\[(\w+)\]", PAGE))


def test_its_example_of_a_choice_is_a_config():
    raw = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    assert ModalitiesConfig.model_validate(raw["modalities"]).providers == {"depth": "acme-depth"}


def test_the_limits_it_states_are_those_of_the_code():
    assert (images.MAX_PIXELS, images.MAX_ARRAY_BYTES, MAX_FILE_BYTES) == (64_000_000, 512_000_000, 64 << 20)

"""Which modalities take part, given the installed plugins and the config."""

from __future__ import annotations

import re

import pytest

from fourm_engine.modalities import ModalitiesConfig, load_modalities
from fourm_plugins.manager import Plugin, PluginError
from tests.fakes import fake_modalities


class Host:
    """Has `a` and `b`; `b` may be in another state."""

    def __init__(self, state="ok"):
        self.plugins = [
            Plugin("modality", "a", "", "fakes", "1", ""),
            Plugin("modality", "b", "", "fourm-b", "1", "", state=state, reason="why", remedy="how"),
        ]

    def find(self, kind, name):
        for plugin in self.plugins:
            if plugin.name == name and plugin.state == "ok":
                return plugin
        raise PluginError(f"{name} is not there")

    def modality(self, name, *, plugin=None, **settings):
        self.find("modality", plugin or name)
        made = fake_modalities([plugin or name], **settings)[plugin or name]
        return type(made)(name, **settings)


def load(host=None, **config):
    return load_modalities(ModalitiesConfig(**config), host or Host())


def test_everything_installed_takes_part_and_a_class_may_serve_several_instances():
    found = load(settings={"a@big": {"plugin": "a", "size": 16}, "b": {"tokens": 2}})
    assert list(found) == ["a", "a@big", "b"]
    assert found["a@big"].spec.array.height == 16
    assert found["b"].spec.layout.height == 2
    assert {name: plugin.name for name, plugin in found.plugins.items()} == {"a": "a", "a@big": "a", "b": "b"}
    assert set(found.token_spaces) == {"a", "a@big", "b"}


def test_settings_of_what_is_not_installed_are_reported_and_left_out(caplog):
    assert list(load(settings={"sonar": {"size": 4}})) == ["a", "b"]
    assert "sonar is configured but not installed, left out (pip install fourm-sonar)" in caplog.text


@pytest.mark.parametrize("select", ["installed", ["a"]])
def test_settings_of_a_name_that_is_nearly_an_installed_one_ask_for_it(caplog, select):
    host = Host()
    host.plugins.append(Plugin("modality", "depth", "", "fourm-depth", "1", "", state="broken", reason="why"))
    load(host, select=select, settings={"dpeth": {}, "sonar": {}})
    assert re.search(r"dpeth is configured.*did you mean 'depth'\?", caplog.text)
    assert len(re.findall("did you mean", caplog.text)) == 1  # sonar is another


@pytest.mark.parametrize("state", ["broken", "incompatible"])
def test_what_is_not_selected_by_name_may_be_broken(caplog, state):
    assert list(load(Host(state))) == ["a"]
    assert f"modality b left out, {state}: why; how" in caplog.text
    with pytest.raises(PluginError):
        load(Host(state), select=["a", "b"])


def test_a_selection_takes_exactly_these(caplog):
    assert list(load(select=["b"], settings={"a": {"size": 16}, "aa": {}})) == ["b"]
    assert "aa is configured, but nothing installed provides it" in caplog.text
    with pytest.raises(PluginError, match="c is not there"):
        load(select=["c"])
    with pytest.raises(ValueError, match="no modality takes part"):
        load(select=[])

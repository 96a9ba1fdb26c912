"""The plugin host: what a user may rely on when plugins are missing, broken, in conflict or disabled."""

from __future__ import annotations

import pytest

from fourm_plugins.manager import PluginError, PluginManager
from tests.sdk.sites import GOOD, entry


def state_of(name: str, **options) -> list[str]:
    return [p.state for p in PluginManager(**options).plugins if p.name == name]


def test_a_class_behind_an_entry_point_is_a_modality(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    manager = PluginManager()
    assert manager.modality("thermal").spec.token_space.size == 64
    assert manager.modality("thermal@big", plugin="thermal", codes=128).spec.name == "thermal@big"
    assert manager.modality_class("thermal") is manager.modality_class("thermal")


def test_a_module_with_a_hook_is_a_modality(install):
    hook = "\nfrom fourm_plugins import hookimpl\n@hookimpl\ndef fourm_modality(name): return Thermal\n"
    install("acme-thermal", entry("thermal", "acme_thermal"), source=GOOD + hook)
    assert PluginManager().modality("thermal").name == "thermal"


def test_a_missing_module_is_broken_and_known_without_import(install):
    install("acme-warmth", entry("thermal", "acme_warmth:Thermal"), source="")
    assert state_of("thermal") == ["broken"]
    with pytest.raises(PluginError, match=r"broken: .*acme_warmth.*pip install --force-reinstall acme-warmth"):
        PluginManager().modality("thermal")


def test_a_plugin_for_another_api_version_or_engine_version_is_incompatible(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal", "fourm.modalities.v9"))
    install("acme-radar", entry("radar", "acme_radar:Thermal"), requires="fourm-engine>=99")
    manager = PluginManager()
    with pytest.raises(PluginError, match="plugin API v9, this engine speaks v1"):
        manager.modality("thermal")
    with pytest.raises(PluginError, match=r"incompatible: requires fourm-engine>=99.*pip install -U acme-radar"):
        manager.modality("radar")


def test_damaged_metadata_is_a_broken_plugin_and_not_the_end_of_the_listing(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), requires="fourm-engine >>= 1")
    install("acme-radar", entry("radar", ":Radar"))
    install("acme-sonar", entry("sonar", "acme_sonar:Thermal"))
    assert [state_of(name) for name in ("thermal", "radar", "sonar")] == [["broken"], ["broken"], ["ok"]]
    with pytest.raises(PluginError, match="its metadata cannot be read"):
        PluginManager().modality("thermal")


def test_two_distributions_claiming_one_name_are_a_conflict_settled_by_providers(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    install("other-thermal", entry("thermal", "other_thermal:Thermal"), source=GOOD.replace("= 64", "= 32"))
    assert state_of("thermal") == ["conflict", "conflict"]
    with pytest.raises(PluginError, match="claimed by acme-thermal and other-thermal"):
        PluginManager().modality("thermal")
    chosen = PluginManager(providers={"thermal": "other-thermal"})
    assert chosen.modality("thermal").spec.token_space.size == 32
    with pytest.raises(PluginError, match="'acme' does not provide 'thermal'"):
        PluginManager(providers={"thermal": "acme"})


def test_a_disabled_plugin_is_not_imported_and_an_unknown_name_is_an_error(install, monkeypatch):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="raise SystemExit('imported')")
    with pytest.raises(PluginError, match="disabled"):
        PluginManager(disabled=["thermal"]).modality("thermal")
    monkeypatch.setenv("FOURM_DISABLE", "thermal")
    assert state_of("thermal") == ["disabled"]
    with pytest.raises(PluginError, match="did you mean 'thermal'"):
        PluginManager(disabled=["termal"])


def test_a_name_that_nothing_provides_names_the_nearest_and_what_to_install(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    with pytest.raises(PluginError, match=r"did you mean 'thermal'\?"):
        PluginManager().modality("thermla")
    with pytest.raises(PluginError, match="pip install fourm-pressure"):
        PluginManager().modality("pressure")


def test_wrong_settings_are_refused_with_the_known_ones(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    with pytest.raises(
        PluginError, match=r"'thermal' refuses its settings: codez: .*did you mean codes\?; it knows: codes"
    ):
        PluginManager().modality("thermal", codez=3)


def test_nothing_new_is_activated_once_the_registry_is_frozen(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    manager = PluginManager()
    manager.freeze()
    with pytest.raises(PluginError, match="frozen"):
        manager.modality("thermal")


def test_the_claim_that_is_chosen_is_the_one_that_is_told_of(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    install("other-thermal", entry("thermal", "other_thermal:Thermal"), source="")
    with pytest.raises(PluginError, match=r"other-thermal 1\.2\) is broken: module 'other_thermal'"):
        PluginManager(providers={"thermal": "Other_Thermal"}).modality("thermal")


def test_an_entry_point_that_names_no_module_is_broken_without_import(install):
    install("acme-thermal", entry("thermal", "os.system('true')"))
    with pytest.raises(PluginError, match="not module:attribute"):
        PluginManager().modality("thermal")


@pytest.mark.parametrize("file", ["entry_points.txt", "METADATA"])
@pytest.mark.parametrize("content", [b"[fourm.modalities.v1]\nthermal\n", b"\xff\xfe [fourm.modalities.v1]", b""])
def test_a_distribution_with_damaged_files_disturbs_no_other(install, tmp_path, file, content):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    install("acme-sonar", entry("sonar", "acme_sonar:Thermal"))
    (tmp_path / "acme_thermal-1.2.dist-info" / file).write_bytes(content)
    assert state_of("sonar") == ["ok"]
    assert PluginManager().modality("sonar").name == "sonar"


def test_an_editable_install_is_said_to_come_from_its_source(install, tmp_path):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    direct = '{"url": "file:///home/someone/a%20plugin", "dir_info": {"editable": true}}'
    (tmp_path / "acme_thermal-1.2.dist-info" / "direct_url.json").write_text(direct)
    assert PluginManager().find("modality", "thermal").location == "/home/someone/a plugin"


def test_what_is_active_is_known_with_its_plugin(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    manager = PluginManager()
    assert not manager.active
    manager.modality("thermal@big", plugin="thermal")
    assert {key: plugin.version for key, plugin in manager.active.items()} == {("modality", "thermal"): "1.2"}


def test_every_name_of_the_sdk_is_there_and_none_is_forgotten():
    import fourm_plugins

    assert sorted(fourm_plugins._HOME) == sorted(fourm_plugins.__all__)
    assert all(getattr(fourm_plugins, name) is not None for name in fourm_plugins.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Gird'"):
        fourm_plugins.Gird  # noqa: B018

"""Plugins as pip, a build and an interrupted upgrade leave them: what is installed counts, the rest is named."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.metadata import find_distribution, right_group
from tests.sdk.sites import GOOD, entry, put

ENTRY = entry("thermal", "acme_thermal:Thermal")


def found(name: str = "thermal") -> list[tuple[str, str, str]]:
    return [(p.distribution, p.version, p.state) for p in PluginManager().plugins if p.name == name]


def ignored() -> list[str]:
    return [Path(left.folder).name for left in PluginManager().leftovers]


def test_what_pip_could_not_remove_is_no_plugin_and_is_named(install, tmp_path):
    install("acme-thermal", ENTRY)
    shutil.copytree(tmp_path / "acme_thermal-1.2.dist-info", tmp_path / "~cme_thermal-0.9.dist-info")
    text = (tmp_path / "~cme_thermal-0.9.dist-info/entry_points.txt").read_text()
    (tmp_path / "~cme_thermal-0.9.dist-info/entry_points.txt").write_text(text.replace("acme_thermal", "acme_old"))
    assert found() == [("acme-thermal", "1.2", "ok")]
    (left,) = PluginManager().leftovers
    assert left.remedy == f"rm -r '{tmp_path}/~cme_thermal-0.9.dist-info'"
    shutil.rmtree(tmp_path / "acme_thermal-1.2.dist-info")
    assert found() == []  # it is no installed plugin even where it is alone
    assert ignored() == ["~cme_thermal-0.9.dist-info"]


@pytest.mark.parametrize("names", [("0.9", "1.10"), ("1.10", "0.9"), ("1.10", "1.9")])
def test_of_two_in_one_folder_that_are_both_there_the_higher_version_counts(install, tmp_path, names):
    for version in names:
        install("acme-thermal", ENTRY, version=version)
    assert found() == [("acme-thermal", "1.10", "ok")]
    assert ignored() == [f"acme_thermal-{min(names, key=lambda v: int(v.split('.')[1]) + 99 * int(v[0]))}.dist-info"]
    assert find_distribution("acme_thermal").version == "1.10"


def test_of_two_in_one_folder_the_one_whose_files_are_there_counts(install, tmp_path):
    """A downgrade that was interrupted: the newer metadata point at what is gone, or list other files."""
    install("acme-thermal", ENTRY, version="1.0")
    put(tmp_path, "acme-thermal", entry("thermal", "acme_new:Thermal"), version="2.0", source="")
    assert found() == [("acme-thermal", "1.0", "ok")]
    shutil.rmtree(tmp_path / "acme_thermal-2.0.dist-info")
    put(tmp_path, "acme-thermal", ENTRY, version="2.0", source="")
    (tmp_path / "acme_thermal-2.0.dist-info/RECORD").write_text("acme_thermal.py,,5\nacme_more.py,,7\n")
    assert found() == [("acme-thermal", "1.0", "ok")]


def test_two_spellings_are_one_distribution(install, tmp_path):
    install("acme-thermal", ENTRY, version="1.0")
    put(tmp_path, "Acme.Thermal", ENTRY, version="1.1", source="")
    assert [version for _, version, _ in found()] == ["1.1"]


def test_the_first_folder_on_the_path_counts_and_the_hidden_one_is_named(tmp_path, monkeypatch):
    for folder, version in (("user", "1.0"), ("venv", "2.0")):
        put(tmp_path / folder, "acme-thermal", ENTRY, version=version)
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert found() == [("acme-thermal", "2.0", "ok")]
    (left,) = PluginManager().leftovers
    assert "acme-thermal 1.0 is hidden by 2.0" in left.reason


def test_what_hides_it_need_not_be_a_plugin_any_more(tmp_path, monkeypatch):
    put(tmp_path / "user", "acme-thermal", ENTRY, version="1.0")
    put(tmp_path / "venv", "acme-thermal", "[console_scripts]\nx = acme:x\n", version="2.0")
    for folder in ("user", "venv"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert found() == []


def test_one_folder_under_two_names_is_one(tmp_path, monkeypatch):
    put(tmp_path / "site", "acme-thermal", ENTRY)
    (tmp_path / "link").symlink_to(tmp_path / "site")
    for folder in ("site", "link"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert found() == [("acme-thermal", "1.2", "ok")]
    assert ignored() == []


def test_the_egg_info_of_a_source_folder_hides_no_installed_plugin(tmp_path, monkeypatch):
    """A test runner puts the source folder first on the path; a build left its metadata there."""
    source, site = tmp_path / "source", tmp_path / "site"
    put(source, "acme-thermal", entry("thermal", "acme_gone:Thermal"), version="0.1")
    (source / "acme_thermal-0.1.dist-info").rename(source / "acme_thermal.egg-info")
    (source / "acme_thermal.egg-info/METADATA").rename(source / "acme_thermal.egg-info/PKG-INFO")
    monkeypatch.syspath_prepend(str(source))
    assert found() == [("acme-thermal", "0.1", "broken")]  # alone it is what there is, as after `setup.py develop`
    put(site, "acme-thermal", ENTRY)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(source))
    assert found() == [("acme-thermal", "1.2", "ok")]
    assert ignored() == ["acme_thermal.egg-info"]
    direct = f'{{"url": "{source.as_uri()}", "dir_info": {{"editable": true}}}}'
    (site / "acme_thermal-1.2.dist-info/direct_url.json").write_text(direct)
    assert ignored() == []  # an editable install and its own source


def test_a_zipped_egg_is_installed(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "acme_thermal-1.2-py3.egg", "w") as egg:
        egg.writestr("acme_thermal.py", GOOD)
        egg.writestr("EGG-INFO/PKG-INFO", "Metadata-Version: 2.1\nName: acme-thermal\nVersion: 1.2\n")
        egg.writestr("EGG-INFO/entry_points.txt", ENTRY)
    monkeypatch.syspath_prepend(str(tmp_path / "acme_thermal-1.2-py3.egg"))
    assert found() == [("acme-thermal", "1.2", "ok")]


def test_metadata_that_lack_the_name_or_cannot_be_opened_are_a_broken_plugin(install, tmp_path):
    for name in ("acme-thermal", "acme-radar"):
        install(name, entry(name[5:], f"{name.replace('-', '_')}:Thermal"))
        (tmp_path / f"{name.replace('-', '_')}-1.2.dist-info/METADATA").unlink()
    assert found("thermal") == [("acme-thermal", "unknown", "broken")]
    assert found("radar") == [("acme-radar", "unknown", "broken")]
    install("fourm-sonar", "")
    (tmp_path / "fourm_sonar-1.2.dist-info/entry_points.txt").unlink()
    (tmp_path / "fourm_sonar-1.2.dist-info/entry_points.txt").mkdir()
    assert found("sonar") == [("fourm-sonar", "unknown", "broken")]


def test_a_name_twice_in_one_distribution_is_broken_unless_it_says_the_same(install, tmp_path):
    install("acme-thermal", ENTRY + "thermal = acme_thermal:Thermal\n")
    assert found() == [("acme-thermal", "1.2", "ok")]
    (tmp_path / "acme_thermal-1.2.dist-info/entry_points.txt").write_text(ENTRY + "thermal = acme_thermal:Other\n")
    with pytest.raises(PluginError, match="names 'thermal' twice: acme_thermal:Other and acme_thermal:Thermal"):
        PluginManager().modality("thermal")


def test_a_plugin_for_two_apis_is_the_one_that_is_spoken(install):
    install("acme-thermal", ENTRY + entry("thermal", "acme_thermal.two:Thermal", "fourm.modalities.v2"))
    assert found() == [("acme-thermal", "1.2", "ok")]


@pytest.mark.parametrize(
    ("group", "right"),
    [
        ("fourm.modality.v1", "fourm.modalities.v1"),
        ("fourm.modalities", "fourm.modalities.v1"),
        ("fourm_modalities", "fourm.modalities.v1"),
        ("fourm-modalities-v1", "fourm.modalities.v1"),
        ("Fourm.Modalities.V1", "fourm.modalities.v1"),
        ("forum.modalities.v1", "fourm.modalities.v1"),
        ("4m.modalities.v1", "fourm.modalities.v1"),
        ("fourm.plugins", "fourm.modalities.v1"),
        ("fourm.tokenizer.v1", "fourm.tokenizers.v1"),
        ("fourm.masker", "fourm.maskers.v1"),
        ("fourm.modalities.v1", ""),
        ("fourm.modalities.v2", ""),
        ("fourm.conformance.v1", ""),
        ("spacy_tokenizers", ""),
        ("pytest11", ""),
        ("transformers.tokenizers", ""),
    ],
)
def test_a_misspelt_group_is_told_with_the_right_one(install, group, right):
    assert right_group(group) == right
    if right:
        install("acme-thermal", entry("thermal", "acme_thermal:Thermal", group))
        plugin, *_ = [p for p in PluginManager().plugins if p.name == "thermal"]
        assert (plugin.state, plugin.kind in right) == ("broken", plugin.kind != "modality")
        assert plugin.reason == f"its entry point is in the group {group!r}, which nothing reads; the right one is {right!r}"

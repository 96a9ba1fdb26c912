"""The plugin host: what a user may rely on when plugins are missing, broken, in conflict or disabled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fourm_plugins.manager import PluginError, PluginManager

GOOD = """
from fourm_plugins import FeatureMap, Grid, Modality, ModalitySpec, Settings, TokenizerRecipe, TokenSpace

class Thermal(Modality):
    class Settings(Settings):
        codes: int = 64
    def make_spec(self):
        return ModalitySpec(
            name=self.name, source="thermal", extensions=("npy",), layout=Grid(height=2, width=2),
            array=FeatureMap(channels=1, height=4, width=4), tokenizer=TokenizerRecipe(kind="vqvae"),
            token_space=TokenSpace(name=self.name, size=self.settings.codes),
        )
    def read(self, files): return files
    def write(self, value): return value
    def augment(self, value, view): return value
    def normalise(self, value): return value
    def denormalise(self, array): return array
    def render(self, value): return str(value)
    def metrics(self): return ()
    def example_samples(self, n, seed): return []
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(distribution, entry_points, source) puts a fake installed distribution on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(distribution: str, entry_points: str, *, source: str = GOOD, requires: str = "", module: str = "") -> None:
        module = module or distribution.replace("-", "_")
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        requires = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n{requires}")
        (info / "entry_points.txt").write_text(entry_points)
        if source:
            (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def entry(name: str, value: str, group: str = "fourm.modalities.v1") -> str:
    return f"[{group}]\n{name} = {value}\n"


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


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("def fourm_modalty(name): return Thermal\n", "unknown hook 'fourm_modalty'; did you mean 'fourm_modality'"),
        ("def fourm_modality(name): return Thermal\n", "not marked with @fourm_plugins.hookimpl"),
        ("from fourm_plugins import hookimpl\n@hookimpl\ndef fourm_modality(nme): return Thermal\n", "nme"),
    ],
)
def test_a_misspelt_unmarked_or_wrongly_signed_hook_is_an_error_that_names_it(install, hook, message):
    install("acme-thermal", entry("thermal", "acme_thermal"), source=GOOD + "\n" + hook)
    with pytest.raises(PluginError, match=message):
        PluginManager().modality("thermal")


def test_a_plugin_that_raises_on_import_is_named_with_cause_and_leaves_nothing_behind(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="1 / 0")
    manager = PluginManager()
    assert state_of("thermal") == ["ok"]  # metadata cannot know
    with pytest.raises(PluginError, match=r"acme-thermal 1.2 .*ZeroDivisionError(.|\n)*Traceback"):
        manager.modality("thermal")
    assert "acme_thermal" not in sys.modules
    assert not manager._active


def test_a_class_that_leaves_out_a_method_is_refused_by_name(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=GOOD.replace("def read", "def raed"))
    with pytest.raises(PluginError, match="does not define read"):
        PluginManager().modality("thermal")


def test_a_missing_module_is_broken_and_known_without_import(install):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="")
    assert state_of("thermal") == ["broken"]
    with pytest.raises(PluginError, match=r"broken: .*acme_thermal.*pip install --force-reinstall acme-thermal"):
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
    with pytest.raises(PluginError, match=r"did you mean 'thermal'.*pip install fourm-thermla"):
        PluginManager().modality("thermla")


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


def test_the_listing_is_the_same_under_every_hash_seed(install, tmp_path):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    install("other-thermal", entry("thermal", "other_thermal:Thermal"))
    code = "from fourm_plugins.manager import PluginManager; print(PluginManager().plugins)"
    root = str(Path(__file__).parents[2])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}:{root}"},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1

"""A run and its plugins: what it does not select cannot disturb it; what it selects and cannot use ends it at once."""

from __future__ import annotations

import pytest
import yaml

from fourm_engine.data.samples import MaskedSamples
from fourm_engine.masking.grid import GridMasker
from fourm_engine.masking.pack import build_maskers
from fourm_engine.modalities import activate_kinds, load_manager, load_modalities
from fourm_engine.recipes.config import load_config, manager_of_run
from fourm_engine.recipes.train import train
from fourm_plugins.manager import PluginError, PluginManager
from tests.recipes.test_config import MINIMAL
from tests.sdk.sites import GOOD, entry

MASKER = "from fourm_engine.masking.grid import GridMasker\nclass Masker(GridMasker): pass\n"


@pytest.fixture
def config(tmp_path):
    """config(**modalities): of a run that has neither data nor tokenizers, as who looked for them would complain."""

    def make(**modalities):
        raw = MINIMAL | {
            "run": str(tmp_path / "run"),
            "modalities": modalities,
            "data": {"train": str(tmp_path / "nowhere")},
            "tokenizers": {"folder": str(tmp_path / "no tokenizers")},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
        return load_config(tmp_path / "config.yaml")

    return make


def test_a_selected_plugin_that_breaks_ends_the_run_before_data_is_looked_for(install, config, tmp_path):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="1 / 0")
    with pytest.raises(PluginError) as caught:
        train(config(select=["thermal"]))
    said = str(caught.value)
    assert "acme-thermal 1.2 (acme_thermal:Thermal) failed with ZeroDivisionError: division by zero" in said
    assert "--no-plugin thermal" in said
    assert 'acme_thermal.py", line 1, in <module>' in said  # the original traceback
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("state", ["broken", "incompatible"])
def test_a_selected_plugin_that_metadata_rules_out_ends_the_run_likewise(install, config, state):
    options = {"source": ""} if state == "broken" else {"requires": "fourm-engine>=99"}
    install("acme-warmth", entry("thermal", "acme_warmth:Thermal"), **options)
    with pytest.raises(PluginError, match=rf"acme-warmth 1\.2\) is {state}: .*; pip install"):
        train(config(select=["thermal"]))


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("fourm.tokenizers.v1", ('kind="vqvae"', 'kind="acme"')),
        ("fourm.maskers.v1", ('source="thermal",', 'source="thermal", masker="acme",')),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_so_do_the_tokenizer_and_the_masker_that_it_names(install, config, group, change, installed):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=GOOD.replace(*change))
    if installed:
        install("acme-kind", entry("acme", "acme_kind:Kind", group), source="1 / 0")
    kind = group.split(".")[1][:-1]
    said = f"{kind} 'acme' cannot be activated: acme-kind 1.2" if installed else f"provides the {kind} 'acme'"
    with pytest.raises(PluginError, match=f"modality 'thermal' cannot be used: .*{said}"):
        train(config(select=["thermal"]))


def test_what_is_not_selected_is_not_even_imported(install, config):
    """Broken on import or by metadata, incompatible, in conflict: the run gets as far as its missing tokenizers."""
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    install("acme-a", entry("radar", "acme_a:Thermal"), source="raise SystemExit('imported')")
    install("acme-b", entry("sonar", "acme_b:Thermal"), source="")
    install("acme-c", entry("lidar", "acme_c:Thermal"), requires="fourm-engine>=99")
    install("acme-d", entry("seismic", "acme_d:Thermal"))
    install("acme-e", entry("seismic", "acme_e:Thermal"))
    with pytest.raises(ValueError, match="no fitted tokenizer for thermal"):
        train(config(select=["thermal"]))


def test_a_disabled_plugin_is_not_imported_and_a_choice_is_kept(install, config):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="raise SystemExit('imported')")
    install("other-thermal", entry("thermal", "other_thermal:Thermal"))
    with pytest.raises(PluginError, match=r"is disabled: named by .*modalities.disable; remove it"):
        train(config(select=["thermal"], disable=["thermal"]))
    with pytest.raises(ValueError, match="no fitted tokenizer for thermal"):
        train(config(select=["thermal"], providers={"thermal": "other-thermal"}))


def test_the_engines_own_maskers_come_through_the_same_hooks(install, config):
    """Another distribution may claim the name of a built-in one; then that is a conflict, and a choice settles it."""
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    alone = load_modalities(config(select=["thermal"]).modalities, PluginManager())
    assert type(build_maskers(alone, {}, PluginManager().masker_class)["thermal"]) is GridMasker
    install("acme-masker", entry("grid", "acme_masker:Masker", "fourm.maskers.v1"), source=MASKER)
    with pytest.raises(PluginError, match=r"masker 'grid' .* claimed by acme-masker and fourm-engine"):
        train(config(select=["thermal"]))
    settings = config(select=["thermal"], providers={"grid": "acme-masker"}).modalities
    manager = load_manager(settings)
    modalities = load_modalities(settings, manager)
    activate_kinds(modalities, manager, maskers=True)
    manager.freeze()
    assert type(build_maskers(modalities, {}, manager.masker_class)["thermal"]).__module__ == "acme_masker"


def test_the_registry_is_frozen_before_a_run_reads_data(install, config, monkeypatch):
    from fourm_engine.recipes import train as run

    class Reached(Exception):
        pass

    def from_config(*arguments, masker_class, **options):
        assert masker_class("grid") is GridMasker  # activated before
        with pytest.raises(PluginError, match="frozen"):
            masker_class("span")
        raise Reached

    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    monkeypatch.setattr(run, "load_tokenizers", lambda *_, **__: {})
    monkeypatch.setattr(MaskedSamples, "from_config", from_config)
    with pytest.raises(Reached):
        train(config(select=["thermal"]))


def test_the_registry_is_frozen_when_a_model_is_loaded(site, monkeypatch, tmp_path):
    from fourm_engine import exported, loading
    from tests.generate.toys import make_model

    model = make_model()
    model.save_pretrained(tmp_path / "model")

    hosts = []
    monkeypatch.setattr(loading, "PluginManager", lambda **choices: hosts.append(PluginManager(**choices)) or hosts[-1])
    load_network = exported.load_network

    def check(*arguments):
        with pytest.raises(PluginError, match="frozen"):
            hosts[0].masker_class("grid")
        return load_network(*arguments)

    monkeypatch.setattr(exported, "load_network", check)
    assert type(model).from_pretrained(tmp_path / "model", device="cpu").missing == {}


def test_what_a_run_chose_counts_when_its_model_is_used_as_far_as_it_is_installed(install, tmp_path):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    install("other-thermal", entry("thermal", "other_thermal:Thermal"))
    install("acme-radar", entry("radar", "acme_radar:Thermal"))
    with pytest.raises(PluginError, match="conflict"):
        manager_of_run(tmp_path).find("modality", "thermal")
    choice = {"providers": {"thermal": "Other_Thermal", "gone": "gone"}, "disable": ["radar", "left"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"modalities": choice}))
    manager = manager_of_run(tmp_path)
    assert manager.find("modality", "thermal").distribution == "other-thermal"
    with pytest.raises(PluginError, match="disabled"):
        manager.find("modality", "radar")
    (tmp_path / "config.yaml").write_text("modalities: {provider: {}}")
    with pytest.raises(ValueError, match=r"modalities: provider: unknown key; did you mean providers\?"):
        manager_of_run(tmp_path)

"""Activation is all or nothing, and what is misspelt is named before it is missed."""

from __future__ import annotations

import re
import sys

import pytest

from fourm_plugins.manager import PluginError, PluginManager
from tests.sdk.sites import GOOD, entry

HOOK = "\nfrom fourm_plugins import hookimpl\n@hookimpl\n"


def fails(name: str, match: str) -> PluginManager:
    manager = PluginManager()
    with pytest.raises(PluginError, match=match):
        manager.modality(name)
    assert not manager.active
    return manager


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("def fourm_modalty(name): return Thermal\n", "unknown hook 'fourm_modalty'; did you mean 'fourm_modality'"),
        (HOOK + "def forum_modality(name): return Thermal\n", "'forum_modality'; did you mean 'fourm_modality'"),
        (HOOK + "def about(name): return 1\n", "unknown hook 'about'; there are .*fourm_masker, fourm_modality"),
        ("def fourm_modality(name): return Thermal\n", "'fourm_modality' is not marked with @fourm_plugins.hookimpl"),
        (HOOK + "def fourm_modality(nme): return Thermal\n", r"takes \(name\), here it has \(nme\); .*'name' by 'nme'"),
        (HOOK + "def fourm_modality(name, kind): return Thermal\n", r"takes \(name\), here it has \(name, kind\)"),
        (HOOK + "def fourm_tokenizer(kind): return Thermal\n", "defines no hook 'fourm_modality'.*are fourm_tokenizer"),
        ("", "defines no hook 'fourm_modality'.* has no hooks"),
        (HOOK + "def fourm_modality(name): return 3\n", "gives 3, not a subclass of fourm_plugins.Modality"),
        (HOOK + "def fourm_modality(name): return None\n", "gives None, not a subclass"),
    ],
)
def test_a_misspelt_unmarked_or_wrongly_signed_hook_is_an_error_that_names_it(install, hook, message):
    install("acme-thermal", entry("thermal", "acme_thermal"), source=GOOD + "\n" + hook)
    fails("thermal", message)
    assert "acme_thermal" not in sys.modules


def test_a_hook_under_another_name_and_one_without_arguments_are_right(install):
    hook = "\nfrom fourm_plugins import hookimpl\n@hookimpl(specname='fourm_modality')\ndef offer(): return Thermal\n"
    install("acme-thermal", entry("thermal", "acme_thermal"), source=GOOD + hook)
    assert PluginManager().modality("thermal").name == "thermal"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def normalise", "def normalize"), r"does not define normalise \(it has 'normalize': misspelt\?\)"),
        (("def read", "def xyz"), "does not define read$"),
        (("def augment(self, value, view)", "def augment(self, value)"), r"augment is written augment\(self, value\)"),
        (("def metrics(self)", "def metrics(self, more)"), r"the engine calls it with \(self\)"),
        (("class Settings(Settings):", "Settings = dict\n    class Other(Settings):"), "Settings is <class 'dict'>"),
    ],
)
def test_a_class_that_lacks_or_misspells_a_method_is_refused_by_name(install, change, message):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=GOOD.replace(*change))
    with pytest.raises(PluginError) as caught:
        PluginManager().modality("thermal")
    assert re.search(message, str(caught.value.__cause__))


def test_a_tokenizer_whose_kind_is_not_its_entry_points_name_is_refused(install):
    source = "from tests.generate.toys import Bins as Base\nclass Bins(Base): kind = 'bin'\n"
    install("acme-bins", entry("notches", "acme_bins:Bins", "fourm.tokenizers.v1"), source=source)
    with pytest.raises(PluginError, match="its `kind` is 'bin', its entry point is called 'notches'"):
        PluginManager().tokenizer_class("notches")


@pytest.mark.parametrize("source", ["1 / 0", "raise SystemExit('no licence')", "import nowhere_at_all", "x = ("])
def test_a_plugin_that_fails_on_import_is_named_with_cause_and_remedy(install, source):
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=source)
    assert [p.state for p in PluginManager().plugins if p.name == "thermal"] == ["ok"]  # metadata cannot know
    fails("thermal", r"acme-thermal 1.2 \(acme_thermal:Thermal\) failed with \w+: (.|\n)*Traceback(.|\n)*acme_thermal")
    fails("thermal", r"upgrade acme-thermal, or run without it: --no-plugin thermal\n")
    assert "acme_thermal" not in sys.modules


def test_ctrl_c_while_a_plugin_is_imported_is_the_users_and_leaves_nothing(install):
    install(
        "acme-thermal",
        entry("thermal", "acme_thermal:Thermal"),
        source="import signal\nsignal.raise_signal(signal.SIGINT)",
    )
    manager = PluginManager()
    with pytest.raises(KeyboardInterrupt):
        manager.modality("thermal")
    assert "acme_thermal" not in sys.modules
    assert not manager.active


def test_a_failed_activation_leaves_no_module_of_its_distribution_and_keeps_those_of_others(install, tmp_path):
    """Submodules, and the second top-level module of the distribution, go; what it imported from elsewhere stays."""
    (tmp_path / "acme_sonar").mkdir()
    (tmp_path / "acme_sonar/__init__.py").write_text("import acme_sonar.inner, acme_helper, acme_elsewhere\n1 / 0\n")
    (tmp_path / "acme_sonar/inner.py").write_text("")
    (tmp_path / "acme_helper.py").write_text("")
    (tmp_path / "acme_elsewhere.py").write_text("")
    files = ("acme_sonar/__init__.py", "acme_sonar/inner.py", "acme_helper.py")
    install("acme-sonar", entry("sonar", "acme_sonar:Sonar"), source="", files=files)
    before = set(sys.modules)
    fails("sonar", "ZeroDivisionError")
    assert {name for name in sys.modules.keys() - before if name.startswith("acme_")} == {"acme_elsewhere"}
    del sys.modules["acme_elsewhere"]
    # Repaired, it works in the same process.
    (tmp_path / "acme_sonar/__init__.py").write_text(GOOD.replace("Thermal", "Sonar"))
    assert PluginManager().modality("sonar").name == "sonar"


def test_what_a_namespace_package_held_before_stays(install, tmp_path):
    for name, source in (("good", GOOD), ("bad", "1 / 0")):
        (tmp_path / "acme_space" / name).mkdir(parents=True)
        (tmp_path / "acme_space" / name / "__init__.py").write_text(source)
        install(f"acme-{name}", entry(name, f"acme_space.{name}:Thermal"), source="", module="acme_space")
    manager = PluginManager()
    manager.modality("good")
    with pytest.raises(PluginError):
        manager.modality("bad")
    assert "acme_space.good" in sys.modules
    assert not hasattr(sys.modules["acme_space"], "bad")
    assert list(manager.active) == [("modality", "good")]


LEARNING = """
from fourm_plugins import hookimpl

class Watcher:
    @hookimpl
    def fourm_step(self, run, metrics): pass

class Misspelt:
    @hookimpl
    def fourm_stepp(self, run): pass

class Wrong:
    @hookimpl
    def fourm_step(self, run, metric): pass

class Silent:
    def on_step(self, run): pass

class Providing:
    @hookimpl
    def fourm_schedule(self, name): pass

number = 3
def optimiser(groups): pass
def schedule(step, steps, lr): pass
def order(confidence): pass
"""


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("observer", "Misspelt", "unknown hook 'fourm_stepp'; did you mean 'fourm_step'"),
        ("observer", "Wrong", r"takes \(run, step, metrics\), here it has \(run, metric\); did you mean 'metrics'"),
        ("observer", "Silent", "Silent has no method that is marked with @fourm_plugins.hookimpl"),
        ("observer", "Providing", "is an observer; fourm_schedule provides something"),
        ("optimiser", "number", "acme_learning:number is a int, not a function"),
        ("optimiser", "optimiser", r"is called with \(…, lr=…\): got an unexpected keyword argument 'lr'"),
        ("schedule", "schedule", r"is called with \(…, steps=…, lr=…, min_lr=…, .*'min_lr'"),
        ("order", "order", r"is called with \(…, …, …, …, …\): too many positional arguments"),
        ("command", "number", "is a int, neither a function nor a Typer app"),
    ],
)
def test_what_is_not_what_its_group_promises_is_an_error_that_says_what_is_wrong(install, kind, value, message):
    install("acme-learning", entry("it", f"acme_learning:{value}", f"fourm.{kind}s.v1"), source=LEARNING)
    manager = PluginManager()
    with pytest.raises(PluginError, match=message):
        manager.activate_observers(["it"]) if kind == "observer" else getattr(manager, kind)("it")
    assert not manager.active
    assert "acme_learning" not in sys.modules


def test_an_observer_takes_the_arguments_that_it_names(install):
    install("acme-learning", entry("it", "acme_learning:Watcher", "fourm.observers.v1"), source=LEARNING)
    manager = PluginManager()
    manager.activate_observers()
    ((name, function, arguments),) = [o for o in manager.observers("fourm_step") if "acme-learning" in o[0]]
    assert name == "'it' of acme-learning 1.2"
    assert arguments == ("run", "metrics")
    assert function(None, {}) is None
    assert not [o for o in manager.observers("fourm_evaluated") if "acme-learning" in o[0]]

"""An error that a plugin's code raises ends a command with one line that names it; one of the engine does not."""

from __future__ import annotations

import sys
import types

import pytest

from fourm_engine.cli import app, main
from fourm_plugins.manager import PluginManager

CODE = """
def wrong(error):
    raise error
def deep(error):
    return (lambda: exec("raise error", {"error": error, "__name__": "numpy.core"}))()
def engine(error):
    exec("raise error", {"error": error, "__name__": "fourm_engine.model"})
"""


@pytest.fixture
def plugin(monkeypatch):
    """A module of an installed plugin's package, whose code raises."""
    owner = next(p for p in PluginManager().plugins if p.distribution == "fourm-depth")
    module = types.ModuleType(f"{owner.package}.wrong")
    exec(compile(CODE, "wrong.py", "exec"), vars(module))
    monkeypatch.setattr(sys, "argv", ["fourm", "runs"])
    monkeypatch.delenv("FOURM_TRACEBACK", raising=False)
    return module


@pytest.mark.parametrize("how", ["wrong", "deep"])
@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("boom"), ZeroDivisionError("y")])
def test_a_plugins_error_is_one_line_that_names_it(plugin, monkeypatch, capsys, error, how):
    monkeypatch.setattr(app, "app", lambda: getattr(plugin, how)(error))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fourm: error: fourm-depth 0.1.0 (wrong.py:")
    assert f"failed with {type(error).__name__}: " in line
    assert line.endswith("; repair, upgrade or disable it (FOURM_TRACEBACK=1 shows where)")


def test_words_that_only_a_plugin_said_name_it(plugin, monkeypatch, capsys):
    monkeypatch.setattr(app, "app", lambda: plugin.wrong(ValueError("too warm")))
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "fourm: error: too warm (said by fourm-depth 0.1.0, wrong.py:3)\n"


def test_an_error_of_the_engine_that_a_plugin_called_is_not_blamed_on_the_plugin(plugin, monkeypatch):
    monkeypatch.setattr(app, "app", lambda: plugin.engine(KeyError("x")))
    with pytest.raises(KeyError):
        main()


def test_an_error_of_the_engine_shows_its_traceback(monkeypatch):
    monkeypatch.setattr(app, "app", lambda: {}["x"])
    monkeypatch.setattr(sys, "argv", ["fourm", "runs"])
    with pytest.raises(KeyError):
        main()

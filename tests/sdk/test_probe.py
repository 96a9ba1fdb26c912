"""Activating in a process of its own shows what breaks, prints, exits or hangs, and harms nobody."""

from __future__ import annotations

import sys
import time

import pytest

from fourm_plugins.manager import PluginManager
from fourm_plugins.probe import probe, probe_all
from tests.sdk.sites import GOOD, entry

CASES = {
    "good": (GOOD, "ok", ""),
    "breaks": ("1 / 0", "broken", "ZeroDivisionError: division by zero"),
    "exits": ("raise SystemExit(3)", "broken", "SystemExit: 3"),
    "kills": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "broken", "ends the process with signal 11"),
    "killed": (
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "broken",
        "not activated: the process was killed, by the system if memory was short",
    ),
    "leaves": ("import os; os._exit(7)", "broken", "ends the process with exit code 7"),
    "prints": ("print('hello, world')\n" + GOOD, "ok", "prints when it is activated: hello, world"),
    "asks": ("input('your name? ')", "broken", "EOFError"),
    "threads": (GOOD + "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n", "ok", ""),
    "defaults": (GOOD.replace("= 64", "= 1"), "broken", "its default settings are refused: ValidationError"),
    "required": (GOOD.replace("codes: int = 64", "codes: int"), "ok", ""),
}


def test_what_each_plugin_does_is_told_and_nothing_is_imported_here(install):
    for name, (source, _, _) in CASES.items():
        install(f"acme-{name}", entry(name, f"acme_{name}:Thermal"), source=source)
    plugins, before = [p for p in PluginManager().plugins if p.name in CASES], set(sys.modules)
    found = {p.plugin.name: p for p in probe_all(plugins)}
    assert {name: p.plugin.state for name, p in found.items()} == {name: case[1] for name, case in CASES.items()}
    for name, (_, _, reason) in CASES.items():
        assert reason in found[name].plugin.reason, name
        assert bool(reason) == bool(found[name].plugin.reason), name
    assert "acme_breaks.py" in found["breaks"].detail
    assert found["prints"].printed == "hello, world"
    assert "--no-plugin breaks" in found["breaks"].plugin.remedy
    assert not {name for name in sys.modules.keys() - before if name.startswith("acme_")}


@pytest.mark.parametrize("source", ["import time; time.sleep(600)", "while True: print('x' * 1000)"])
def test_one_that_hangs_is_ended_with_all_that_it_started(install, source):
    started = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=started + source)
    began = time.monotonic()
    found = probe(PluginManager().find("modality", "thermal"), timeout=3)
    assert time.monotonic() - began < 300
    assert (found.plugin.state, found.plugin.reason) == ("broken", "hangs: not activated after 3 s")
    assert len(found.printed) <= 4000

"""Whoever breaks is named, whatever way it breaks; and what a plugin changes of the process is put back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from fourm_plugins import guard
from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.probe import probe
from tests.sdk.sites import GOOD, entry, put

NAMED = r"modality 'thermal' cannot be .*: acme-thermal 1\.2 .*--no-plugin thermal\n"
MADE = GOOD.replace("def make_spec(self):\n", "def make_spec(self):\n        import os, sys; CODE\n")


@pytest.mark.parametrize("place", ["import", "instance"])
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("os._exit(0)", "EndsProcess: it ends the process with exit code 0"),
        ("os._exit(3)", "EndsProcess: it ends the process with exit code 3"),
        ("os.abort()", "EndsProcess: it aborts the process"),
        ("sys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "EndsProcess: it raises KeyboardInterrupt, though nobody pressed Ctrl-C"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise type('Own', (BaseException,), {})('mine')", "Own: mine"),
        ("(f := lambda: f())()", "RecursionError"),
        ("raise RuntimeError('no device')", "RuntimeError: no device"),
    ],
)
def test_a_plugin_that_breaks_the_process_is_named_with_the_remedy(install, place, code, cause):
    source = f"import os, sys\n{code}\n" if place == "import" else MADE.replace("CODE", code)
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=source)
    exits = os._exit, os.abort
    with pytest.raises(PluginError, match=NAMED) as caught:
        PluginManager().modality("thermal")
    assert cause in str(caught.value).partition("\n")[0]
    assert (os._exit, os.abort) == exits


@pytest.mark.parametrize("place", ["import", "instance"])
@pytest.mark.parametrize(
    "code", ["{}", "try:\n    {}\nexcept BaseException: pass", "try:\n    {}\nexcept BaseException: 1 / 0"]
)
def test_a_signal_to_the_process_is_no_fault_of_the_plugin_that_it_meets(install, place, code):
    code = code.format("__import__('os').kill(os.getpid(), 15)")
    if place == "instance":
        code = MADE.replace("CODE", "\n" + "\n".join(" " * 8 + line for line in code.splitlines()))
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=f"import os\n{code}\n")
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with pytest.raises(guard.Stopped) as caught:
            PluginManager().modality("thermal")
        assert caught.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "code", ["import ctypes; ctypes.string_at(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_a_plugin_that_kills_the_process_is_named_on_stderr(tmp_path, code):
    put(tmp_path, "acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=code)
    root = os.path.dirname(os.path.dirname(guard.__file__))
    program = "from fourm_plugins.manager import PluginManager; PluginManager().modality('thermal')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode < 0
    assert done.stderr.splitlines()[-1] == (
        "fourm: error: the process ended inside modality 'thermal' of acme-thermal 1.2 (acme_thermal:Thermal); "
        "repair or upgrade acme-thermal, or run without it: --no-plugin thermal, unless it was killed, as the system "
        "does where memory is short"
    )


def test_a_plugin_that_hangs_is_named_and_then_ended(install, monkeypatch, capfd):
    monkeypatch.setattr(guard, "NOTICE", 0.05)
    monkeypatch.setattr(guard, "LIMIT", 0.2)
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="import time\ntime.sleep(600)\n")
    began = time.monotonic()
    with pytest.raises(PluginError, match=r"EndsProcess: it hangs: not done after 0\.2 s"):
        PluginManager().modality("thermal")
    assert time.monotonic() - began < 300  # woken, not waited for
    assert "of acme-thermal 1.2 (acme_thermal:Thermal) still runs after 0.05 s" in capfd.readouterr().err


def test_a_fork_of_the_plugins_own_may_end(install):
    source = (
        "import os\nchild = os.fork()\nif not child: os._exit(7)\nassert os.waitpid(child, 0)[1] >> 8 == 7\n" + GOOD
    )
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=source)
    assert PluginManager().modality("thermal").name == "thermal"


CHANGES = {
    "the working directory": "import os; os.chdir('/')",
    "Python's random state": "import random; random.seed(0)",
    "NumPy's random state": "import numpy; numpy.random.seed(0)",
    "PyTorch's random state": "import torch; torch.manual_seed(1)",
    "PyTorch's default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "PyTorch's grad mode": "import torch; torch.set_grad_enabled(False)",
    "the warnings filter": "import warnings; warnings.simplefilter('ignore')",
    "logging": "import logging; logging.disable(logging.CRITICAL)",
    "the order of sys.path": "import sys; sys.path.insert(0, '/nowhere/acme')",
    "the variable FOURM_DISABLE": "import os; os.environ['FOURM_DISABLE'] = 'rgb'",
    "the variable HOME": "import os; os.environ['HOME'] = '/nowhere'",
}


def state() -> list[str]:
    blanket = any(f[:2] == ("ignore", None) and f[2] is Warning and f[3] is None for f in warnings.filters)
    found = [os.getcwd(), random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_default_dtype()]
    return [*map(repr, (*found, torch.is_grad_enabled(), blanket, sys.path[0], dict(os.environ)))]


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("what", CHANGES)
def test_what_a_plugin_changes_of_the_process_is_put_back_and_told(install, caplog, capsys, what, good):
    source = f"print('welcome')\n{CHANGES[what]}\n{GOOD if good else '1 / 0'}"
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=source)
    before = state()
    if good:
        PluginManager().modality("thermal")
        assert f"of acme-thermal 1.2 (acme_thermal:Thermal) changed {what}; put back" in caplog.text
    else:
        with pytest.raises(PluginError):
            PluginManager().modality("thermal")
    assert state() == before
    assert capsys.readouterr().out == ""  # a command's answer is not mixed with what a plugin prints


def test_a_harmless_plugin_changes_nothing(install, caplog):
    install(
        "acme-thermal", entry("thermal", "acme_thermal:Thermal"), source="import os; os.environ['ACME']='1'\n" + GOOD
    )
    PluginManager().modality("thermal")
    assert not caplog.text
    assert os.environ.pop("ACME") == "1"


def test_a_probe_tells_what_a_plugin_changes(install):
    source = "import random; random.seed(0)\nimport os; os.chdir('/')\n" + GOOD
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=source)
    found = probe(PluginManager().find("modality", "thermal")).plugin
    assert (found.state, found.reason) == (
        "ok", "changes the working directory, Python's random state when it is activated"
    )  # fmt: skip

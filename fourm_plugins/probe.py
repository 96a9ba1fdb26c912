"""Activates a plugin in a subprocess, where a crash, output or a hang is detected and does no harm.

From a `Plugin` it makes a `Probe`: the plugin with the state found on activation, its output, and the time taken.
`python -m` is not used: the process gets this one's `sys.path` unchanged.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fourm_plugins.discovery import Plugin, PluginError
from fourm_plugins.errors import one_line

#: Seconds after which a plugin counts as hanging; importing torch from a cold disk takes a while.
TIMEOUT = 60.0
#: Maximum number of bytes of a plugin's output that are kept.
MAX_PRINTED = 4000
_MAX_RESULT = 1 << 20
_CHILD = (
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from fourm_plugins.probe import run_child\n"
    "run_child(sys.argv[2], sys.argv[3])\n"
)


@dataclass(frozen=True)
class Probe:
    """`detail` is the traceback, if any; `printed` is the output on stdout and stderr."""

    plugin: Plugin
    seconds: float
    printed: str = ""
    detail: str = ""


def probe_all(
    plugins: list[Plugin], *, timeout: float = TIMEOUT, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Probe]:
    """Probe each plugin that is ok so far, in parallel, one per processor; return the others unchanged. `progress` is
    called with the number of plugins done, and of all."""
    probes = []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for one in pool.map(lambda plugin: probe(plugin, timeout=timeout), plugins):
            probes.append(one)
            progress(len(probes), len(plugins))
    return probes


def probe(plugin: Plugin, *, timeout: float = TIMEOUT) -> Probe:
    """Activate `plugin`, and make a modality with default settings, in a process that is killed after `timeout`
    seconds."""
    if plugin.state != "ok":
        return Probe(plugin, 0.0)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), json.dumps(asdict(plugin)), str(result)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,  # a plugin that prompts for input gets end-of-file
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        printed = _read(process, began + timeout)
        seconds = time.monotonic() - began
        code = process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # hanging processes, and any left running
        process.wait()
        try:
            answer = json.loads(result.read_bytes()[:_MAX_RESULT])
        except (OSError, ValueError):
            answer = None
    remedy = f"repair or upgrade {plugin.distribution}, or run without it: --no-plugin {plugin.name}"
    if answer is None:
        if code is None:
            reason = f"hangs: not activated after {timeout:g} s"
        elif code == -signal.SIGKILL:  # which no crash is
            reason = "not activated: the process was killed, by the system if memory was short"
            remedy = f"free memory, and try again, or run without it: --no-plugin {plugin.name}"
        else:
            reason = f"ends the process with {'signal ' if code < 0 else 'exit code '}{abs(code)} when it is activated"
        return Probe(replace(plugin, state="broken", reason=reason, remedy=remedy), seconds, printed)
    if answer["error"]:
        reason, _, detail = answer["error"].partition("\n")
        return Probe(replace(plugin, state="broken", reason=reason, remedy=remedy), seconds, printed, detail)
    remarks = [f"prints when it is activated: {printed.splitlines()[0]:.100}"] if printed else []
    if answer["changed"]:
        remarks.append(f"changes {', '.join(dict.fromkeys(answer['changed']))} when it is activated")
    if remarks:
        plugin = replace(plugin, reason="; ".join(remarks))
    return Probe(plugin, seconds, printed)


def _read(process: subprocess.Popen[bytes], deadline: float) -> str:
    """Read the start of the process's output until it ends, or until the deadline."""
    assert process.stdout is not None
    kept = b""
    with process.stdout as stream:
        while (left := deadline - time.monotonic()) > 0:
            # A process started by the plugin may keep the pipe open: check the plugin's process itself, too.
            if process.poll() is not None:
                left = 0.0
            if not select.select([stream], [], [], min(left, 0.5))[0]:
                if process.poll() is not None and left == 0.0:
                    break
                continue
            chunk = os.read(stream.fileno(), 1 << 16)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                break
            kept = (kept + chunk)[:MAX_PRINTED]
    return kept.decode("utf-8", "replace").strip()


def run_child(plugin_json: str, result: str) -> None:
    """Runs in the subprocess: activate, and write any error to the file `result`."""
    plugin = Plugin(**json.loads(plugin_json))
    error = ""
    changed: list[str] = []
    try:
        from fourm_plugins.activation import activate, run

        cls = activate(plugin, witness=False, changed=changed)
        required = plugin.kind == "modality" and [n for n, f in cls.Settings.model_fields.items() if f.is_required()]
        if plugin.kind == "modality" and not required:
            run(plugin, "made", lambda: cls(plugin.name), witness=False, changed=changed)
    except PluginError as failure:
        # The cause only: the caller names the plugin.
        cause = failure.__cause__ or failure
        error = f"{type(cause).__name__}: {one_line(cause)}\n{failure}"
    except Exception as failure:
        import traceback

        words = f"{type(failure).__name__}: {one_line(failure)}"
        error = f"its default settings are refused: {words}\n{traceback.format_exc()}"
    sys.stdout.flush()
    sys.stderr.flush()
    temporary = result + ".part"
    Path(temporary).write_text(json.dumps({"error": error, "changed": changed}))
    os.replace(temporary, result)
    os._exit(0)  # threads started by a plugin must not keep the process alive

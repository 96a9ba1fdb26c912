"""Examines a plugin in a fresh process: imported modules, output, network, random state, spawned workers.

`probe(...)` starts an interpreter that runs `main()` and returns its findings, as data. Nothing of this process reaches
the other except the modality's name and settings.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.view import View

#: Seconds after which a plugin that does not return is abandoned.
PATIENCE = 300
_PROGRAM = "from fourm_plugins.testing.probe import main; main()"
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")


@dataclass(frozen=True)
class Probed:
    """`output` is what the process printed, `facts` its findings (see `_look`), or only "error" if it ended early."""

    output: str
    facts: dict[str, Any]


def probe(name: str, settings: Mapping[str, Any], *, hash_seed: int, folder: Path) -> Probed:
    """Examine modality `name` in a fresh interpreter. Raises ValueError if it cannot be started."""
    answer = folder / f"probe-{hash_seed}.json"
    request = json.dumps({"name": name, "settings": dict(settings), "spawn": hash_seed == 1, "answer": str(answer)})
    paths = os.pathsep.join(filter(None, sys.path))
    try:
        done = run_python("-c", _PROGRAM, request, PYTHONHASHSEED=str(hash_seed), PYTHONPATH=paths)
    except subprocess.TimeoutExpired:
        raise ValueError(f"importing the plugin in a fresh process took more than {PATIENCE} s") from None
    output = done.stdout + done.stderr
    if not answer.is_file():
        last = (output.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"a fresh process cannot use the plugin: {last}")
    return Probed(output, json.loads(answer.read_text(encoding="utf-8")))


def run_python(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter to its end, with additional environment variables."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )


def digest(modality: Modality[Any], files: Mapping[str, bytes]) -> str:
    """Digest of a sample's array, with the whole picture in view."""
    array = modality.normalise(modality.augment(modality.read(dict(files)), View()))
    content = array.encode() if isinstance(array, str) else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()


def _look(name: str, settings: dict[str, Any], *, spawn: bool) -> dict[str, Any]:
    reached: list[str] = []
    sys.addaudithook(lambda event, args: reached.append(f"{event}{args!r:.80}") if event in _NETWORK else None)
    before_modules = set(sys.modules)
    host = PluginManager()
    changed: list[str] = []
    host.tell_changes(changed)
    first = host.modality(name, **settings)
    imported = sorted({module.partition(".")[0] for module in set(sys.modules) - before_modules})
    modules = set(sys.modules)
    second = PluginManager().modality(name, **settings)
    facts: dict[str, Any] = {
        "imported": imported,
        "network": reached[:3],
        "changed": sorted(set(changed)),
        "fingerprint": first.spec.fingerprint(),
        "twice": {
            "class": type(first) is type(second),
            "spec": first.spec == second.spec,
            "modules": sorted(set(sys.modules) - modules)[:3],
        },
    }
    if spawn:
        facts["spawn"] = _spawn(second)
    return facts


def _spawn(modality: Modality[Any]) -> str:
    """'' if a spawned process reads a sample as this one does, otherwise the difference or error."""
    try:
        files = modality.example_samples(1, 0)[0]
        here = digest(modality, files)
        # Like a data loader's worker: a new interpreter that gets the instance pickled.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            in_worker = pool.apply_async(digest, (modality, files)).get(PATIENCE / 2)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
    return "" if in_worker == here else "a spawned process makes another array of the same file"


def main() -> None:
    """Runs in the fresh process: examine, and write the result to the file named by the request."""
    request = json.loads(sys.argv[1])
    facts = _look(request["name"], request["settings"], spawn=request["spawn"])
    Path(request["answer"]).write_text(json.dumps(facts), encoding="utf-8")

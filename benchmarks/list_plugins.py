"""CPU time of `fourm plugins list` with many plugins installed, beyond the interpreter's start.

Makes distributions in a temporary folder, as pip leaves them (metadata with a README, a list of files, an entry point),
and alternates the command with `python -c pass`. Prints medians in seconds of user and system time.

    python -m benchmarks.list_plugins --plugins 50 --repeats 9
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

METADATA = """Metadata-Version: 2.4
Name: acme-m{i}
Version: 1.{i}
Summary: A modality
Requires-Python: >=3.10
Requires-Dist: fourm-engine<1,>=0.1
Requires-Dist: numpy
Requires-Dist: pillow>=10; extra == "pictures"
Provides-Extra: pictures
Description-Content-Type: text/markdown

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.plugins):
            install(Path(folder), i)
        environment = {**os.environ, "PYTHONPATH": folder}
        commands = {
            "python -c pass": ["-c", "pass"],
            "list --json": ["-m", "fourm_engine.cli", "plugins", "list", "--json"],
            "list": ["-m", "fourm_engine.cli", "plugins", "list"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.repeats):
            for name, arguments in commands.items():
                seconds[name].append(cpu(arguments, environment))
    start = statistics.median(seconds["python -c pass"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:16} {median:.3f} s, {median - start:.3f} s beyond the interpreter's start")


def install(folder: Path, i: int) -> None:
    (folder / f"acme_m{i}").mkdir()
    (folder / f"acme_m{i}" / "__init__.py").write_text("raise SystemExit('a listing imports no plugin')\n")
    info = folder / f"acme_m{i}-1.{i}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA.format(i=i) + "A line of the description of this modality.\n" * 40)
    (info / "RECORD").write_text("".join(f"acme_m{i}/file{k}.py,sha256=x,1\n" for k in range(20)))
    (info / "entry_points.txt").write_text(f"[fourm.modalities.v1]\nm{i} = acme_m{i}:Modality\n")


def cpu(arguments: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

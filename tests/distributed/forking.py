"""The process that those of `launching.py` are forked from, once it has imported what they need: `forking.py FOLDER`.

Each line that it reads is a job: (environment, working directory, program and arguments, path). Beside `path`, in the
folder, it leaves the process id (`.pid`), standard output (`.out`) and error (`.err`) and, in the end, the exit code
(`.code`). The folder is removed when its input ends."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path

MODULES = ("fourm_engine.cli.app", "fourm_engine.recipes.train", "fourm_engine.recipes.fit", "tests.train.toy_task")


def serve() -> None:
    for module in MODULES:
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the system
    for line in sys.stdin:
        environment, folder, words, path = json.loads(line)
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if not pid:
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.path[:1] = [str(Path(words[0]).parent), *environment["PYTHONPATH"].split(os.pathsep)]
            # As a terminal starts it, though a shell in the background, or nohup, has the tests ignore these.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            sys.argv = words
            for number, suffix in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{path}.{suffix}", os.O_CREAT | os.O_WRONLY), number)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os._exit(code_of(words[0]))
        write(f"{path}.pid", pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        write(f"{path}.code", status)
        os._exit(0)


def code_of(program: str) -> int:
    """Run it; the exit code that it ends with."""
    code = 0
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def write(path: str, number: int) -> None:
    Path(f"{path}~").write_text(str(number))
    os.rename(f"{path}~", path)


if __name__ == "__main__":
    serve()
    shutil.rmtree(sys.argv[1], ignore_errors=True)

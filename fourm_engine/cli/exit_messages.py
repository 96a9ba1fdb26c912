"""How a command ends: every error in one line, `fourm: error: …`, and after a signal what is kept and how to go on.

Exit codes: 0; 1 for an error that the user can fix; 2 for a command line that is not understood; 128 + signal.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fourm_engine.device import local_rank, rank_and_world

_AGAIN = "run the same command again to continue"
_NOTHING = "nothing is written before the end, and what was there is unchanged; run the same command again"
_RESULTS = f"results that are finished are kept; {_AGAIN}"
_TRAINING = f"finished checkpoints are kept; {_AGAIN}"
#: Command -> what is there when it is stopped, and how it goes on; of two words, the first alone or both.
KEPT = {
    "data pack": f"finished shards are kept; {_AGAIN}",
    "data unpack": f"finished files are kept; {_AGAIN}",
    "edit": _RESULTS,
    "embed": _NOTHING,
    "evaluate": _NOTHING,
    "export": _NOTHING,
    "convert": _NOTHING,
    "init": _NOTHING,
    "extend": f"tokenizers, tokens and checkpoints so far are kept; {_AGAIN}",
    "finetune": _TRAINING,
    "generate": _RESULTS,
    "label": f"labels that are finished are kept; {_AGAIN}",
    "predict": _RESULTS,
    "probe": f"features so far are kept; {_AGAIN}",
    "suite": f"finished trials are kept, and checkpoints of others; {_AGAIN}",
    "sweep": f"finished trials are kept, and checkpoints of others; {_AGAIN}",
    "tokenize": f"finished shards are kept; {_AGAIN}",
    "tokenizer eval": _NOTHING,
    "tokenizer fit": f"fitted tokenizers are kept, and checkpoints of others; {_AGAIN}",
    "train": _TRAINING,
}
#: Seconds that a process with an error waits for the first of its machine to end with it.
HEAD_START = 20.0
#: Signals that stop a command, by its exit code.
_STOPS = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)}


def stopped(end: SystemExit, arguments: Sequence[str]) -> str | None:
    """The line for a command with these `arguments` that a signal ended; None where something else did, or where the
    line has been printed (`end.reported`), and for a listing or help page that nobody reads to its end."""
    number = _STOPS.get(end.code) if isinstance(end.code, int) else None
    if number is None or getattr(end, "reported", False) or rank_and_world()[0] != 0:
        return None
    if number == signal.SIGPIPE and not {"-h", "--help"}.isdisjoint(arguments):
        return None
    kept = KEPT.get(" ".join(arguments[:2])) or KEPT.get(arguments[0] if arguments else "")
    if kept is None:
        return None if number == signal.SIGPIPE else f"stopped by {number.name}"
    return f"stopped by {number.name}; {kept}"


def reported_elsewhere(error: Exception) -> bool:
    """Whether another process of this command reports the error: it has said so (`reported`), or the error is one of
    the config or the command line, which the first process of the machine reports, as long as it has it, too."""
    from fourm_engine.yaml_config import ConfigError  # lazy: listings need none

    of_all = isinstance(error, ConfigError) or not isinstance(error, (ValueError, OSError))
    return getattr(error, "reported", False) or (of_all and local_rank() > 0 and _first_ends())


def _first_ends() -> bool:
    """Whether the first process of this machine ends in the next few seconds. If it goes on, only this one has the
    error. True where processes cannot be looked up."""
    job = {name: os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")}
    first = job | {"RANK": str(rank_and_world()[0] - local_rank()), "LOCAL_RANK": "0"}
    last = time.monotonic() + HEAD_START
    while any(first.items() <= environment.items() for environment in _environments()):
        if time.monotonic() > last:
            return False
        time.sleep(0.2)
    return True


def _environments() -> Iterator[dict[str, str]]:
    """The environments of this user's processes. That of one that has ended is empty."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            entries = (entry.partition("=") for entry in os.fsdecode(path.read_bytes()).split("\0"))
            yield {name: value for name, _, value in entries}


def of_locale(error: Exception, words: str) -> str:
    """The `words` of an error, with the remedy where it comes from a locale that is not UTF-8: from a name that cannot
    be written, or bytes of the command line that are no text."""
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return words
    remedy = f"the locale's encoding is {encoding}; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!a:.300}: cannot be the name of a file: {remedy}"
    return f"{words}; {remedy}" if re.search(r"[\udc80-\udcff]|\\udc[89a-f]", words) else words


def misused(error: Any) -> str:
    """A command line that is not understood (click's ClickException), in one line; without another remedy, it names
    the command's help. "" where help has been shown instead."""
    words = " ".join(error.format_message().split()).rstrip(".").replace(". Did you mean", "; did you mean")
    context = getattr(error, "ctx", None)
    if not words or context is None:
        return str(words)
    words = words[0].lower() + words[1:]
    return words if "; " in words else f"{words}; see {context.command_path} {context.help_option_names[-1]}"


def tell_error(line: str) -> None:
    print(f"fourm: error: {line}", file=sys.stderr)

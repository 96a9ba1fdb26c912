"""The command line `fourm`, one file per command group. Heavy imports happen inside the commands, so that listing
plugins stays instant. Errors that the user can fix (ValueError, OSError, a device out of memory) end a command with
one line (`ending`); `FOURM_TRACEBACK=1` shows the traceback. Any other exception is a bug and always shows it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

from fourm_engine.cli import (
    check,
    convert,
    data,
    edit,
    embed,
    evaluate,
    export,
    extend,
    finetune,
    generate,
    init,
    label,
    plugins,
    predict,
    probe,
    runs,
    sweep,
    tokenize,
    tokenizer,
    train,
    vary,
)
from fourm_engine.cli.commands import Commands
from fourm_engine.cli.ending import stopped, tell_error, told_elsewhere
from fourm_engine.cli.memory import out_of_memory
from fourm_engine.cli.no_plugin import add_no_plugin
from fourm_engine.cli.streams import settle_streams
from fourm_engine.device import rank_and_world
from fourm_engine.files import words_of

app = typer.Typer(
    name="fourm",
    cls=Commands,
    help="Any-to-any multimodal models in which a modality is a package you pip-install.",
    epilog="With data of your own, start with: fourm init FOLDER",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plugins.app.command("check")(check.check)
app.add_typer(plugins.app, name="plugins")
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.command("init")(init.init)
app.command("label")(label.label)
app.command("tokenize")(tokenize.tokenize)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("suite")(sweep.suite)
app.command("extend")(extend.extend)
app.command("finetune")(finetune.finetune)
app.command("generate")(generate.generate)
app.command("edit")(edit.edit)
app.command("vary")(vary.vary)
app.command("predict")(predict.predict)
app.command("embed")(embed.embed)
app.command("search")(embed.search)
app.command("probe")(probe.probe)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("convert")(convert.convert)
add_no_plugin(app)  # after all commands are there


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fourm-engine {importlib.metadata.version('fourm-engine')}")
        raise typer.Exit


@app.callback()
def fourm(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options before a command."""


class Once(logging.Filter):
    """Lets each warning pass once: a command may open the same data several times. Of several processes, which open the
    same data, the first one tells, except for what one has met `ALONE`."""

    def __init__(self) -> None:
        super().__init__()
        self._told = set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        number, world = rank_and_world()
        if record.levelno <= logging.WARNING and world > 1 and number and not hasattr(record, "alone"):
            return False
        if record.levelno != logging.WARNING:
            return True
        line, before = record.getMessage(), len(self._told)
        self._told.add(line)
        return len(self._told) > before


class Plain(logging.Formatter):
    """What a command tells, as it is; before a warning or an error stands what it is."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno < logging.WARNING else f"fourm: {record.levelname.lower()}: {line}"


def main() -> None:
    settle_streams()
    told = logging.StreamHandler()
    told.addFilter(Once())
    told.setFormatter(Plain())
    logging.basicConfig(level=logging.INFO, handlers=[told])
    for noisy in ("httpx", "filelock", "urllib3", "matplotlib", "PIL", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A signal unwinds the command, so that no temporary file is left. Training saves a checkpoint first.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except SystemExit as end:
        if line := stopped(end, sys.argv[1:]):
            with suppress(BrokenPipeError):  # as in `fourm … 2>&1 | head`
                print(f"fourm: {line}", file=sys.stderr)
        raise
    except (RuntimeError, MemoryError) as error:
        if os.environ.get("FOURM_TRACEBACK") or (line := out_of_memory(error, sys.argv[1:])) is None:
            raise
        tell_error(line)
        sys.exit(1)
    except (ValueError, OSError) as error:
        if told_elsewhere(error):
            sys.exit(1)
        if os.environ.get("FOURM_TRACEBACK"):
            raise
        said, plugin, _ = words_of(error).partition("\nTraceback ")  # a plugin's, which is for its author
        tell_error(said + (" (FOURM_TRACEBACK=1 shows where)" if plugin else ""))
        sys.exit(1)

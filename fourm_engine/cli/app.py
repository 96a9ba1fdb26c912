"""All commands, and how each one ends. Errors that the user can fix (ValueError, OSError, a device out of memory) end a
command with one line (`exit_messages`); `FOURM_TRACEBACK=1` shows the traceback. Any other exception is a bug and
always does."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from fourm_engine.cli import (
    check_plugin,
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
from fourm_engine.cli.command_setup import set_up
from fourm_engine.cli.commands import Commands
from fourm_engine.cli.exit_messages import of_locale, reported_elsewhere, stopped, tell_error
from fourm_engine.cli.logs import log_to_stderr
from fourm_engine.cli.out_of_memory import out_of_memory
from fourm_engine.cli.plugin_errors import fault, source
from fourm_engine.cli.streams import settle_streams
from fourm_engine.files import words_of

#: Ends a line about a plugin's fault.
SHOWS = " (FOURM_TRACEBACK=1 shows where)"
#: How `fourm --help` groups the commands.
DATA, TRAINING, USING, PACKAGES = "Data and tokenizers", "Training", "Trained models", "Packages"
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
plugins.app.command("check")(check_plugin.check)
app.add_typer(plugins.app, name="plugins", rich_help_panel=PACKAGES)
app.add_typer(tokenizer.app, name="tokenizer", rich_help_panel=DATA)
app.add_typer(data.app, name="data", rich_help_panel=DATA)
app.add_typer(runs.app, name="runs", rich_help_panel=TRAINING)
app.command("init", rich_help_panel=DATA)(init.init)
app.command("label", rich_help_panel=DATA)(label.label)
app.command("tokenize", rich_help_panel=DATA)(tokenize.tokenize)
app.command("train", rich_help_panel=TRAINING)(train.train)
app.command("sweep", rich_help_panel=TRAINING)(sweep.sweep)
app.command("suite", rich_help_panel=TRAINING)(sweep.suite)
app.command("extend", rich_help_panel=TRAINING)(extend.extend)
app.command("finetune", rich_help_panel=TRAINING)(finetune.finetune)
app.command("generate", rich_help_panel=USING)(generate.generate)
app.command("edit", rich_help_panel=USING)(edit.edit)
app.command("vary", rich_help_panel=USING)(vary.vary)
app.command("predict", rich_help_panel=USING)(predict.predict)
app.command("embed", rich_help_panel=USING)(embed.embed)
app.command("search", rich_help_panel=USING)(embed.search)
app.command("probe", rich_help_panel=USING)(probe.probe)
app.command("export", rich_help_panel=USING)(export.export)
app.command("evaluate", rich_help_panel=TRAINING)(evaluate.evaluate)
app.command("convert", rich_help_panel=USING)(convert.convert)
set_up(app)  # after all commands are there


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fourm-engine {importlib.metadata.version('fourm-engine')}")
        raise typer.Exit


@app.callback()
def fourm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """The options before a command."""


def run() -> None:
    """Run the command that `sys.argv` names. Raises SystemExit, with the exit codes of `exit_messages`."""
    settle_streams()
    log_to_stderr()
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
    except KeyboardInterrupt:  # before typer takes over
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError) as error:
        _end_with(error)
    except Exception as error:
        if isinstance(cause := error.__context__, OSError) and cause.errno == errno.ELOOP:  # raised by `Path.resolve`
            _end_with(cause)
        if os.environ.get("FOURM_TRACEBACK"):
            raise
        line = out_of_memory(error, sys.argv[1:])
        if line is None and (blamed := fault(error)) is not None:
            line = blamed + SHOWS
        if line is None:
            raise
        tell_error(line)
        sys.exit(1)


def _end_with(error: Exception) -> NoReturn:
    """End with the line of an error that the user can fix."""
    if reported_elsewhere(error):
        sys.exit(1)
    if os.environ.get("FOURM_TRACEBACK"):
        raise error
    said, plugin, _ = words_of(error).partition("\nTraceback ")  # a plugin's, which is for its author
    tell_error(of_locale(error, said) + source(error) + (SHOWS if plugin else ""))
    sys.exit(1)

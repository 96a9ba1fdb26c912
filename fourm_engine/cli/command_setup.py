"""What every command has: the option `--no-plugin NAME`, and a help page that flows to the terminal's width and names
each value in one word (INT, FILE, KEY=VALUE).

The option acts before any import: it adds the names to the environment variable `FOURM_DISABLE`, which the plugin host
reads in this and every child process.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import solve_typer_info_defaults
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from fourm_engine.device import rank_and_world
from fourm_plugins.discovery import DISABLE

_HELP = "A plugin to disable, as if it were not installed; repeatable."
_OPTION = Annotated[list[str] | None, typer.Option("--no-plugin", metavar="NAME", help=_HELP)]
#: Type of an option -> what its help page calls the value. Enums show their choices.
METAVARS: dict[Any, str] = {bool: "", int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


class HelpPage:
    """Base of the classes of commands: no types beside flags and arguments, whose names say enough; no empty values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: dict[str, Any] = self.make_parser(ctx).parse_args(args=list(args))[0]  # type: ignore[attr-defined]
        for param in self.get_params(ctx):
            value = given.get(param.name)
            if value == "" or (isinstance(value, (list, tuple)) and "" in value):  # of a path, the current folder
                raise typer.BadParameter("it is empty; give a value, or leave it out", ctx=ctx, param=param)
        return super().parse_args(ctx, args)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None
            elif param.name == "help":
                param.metavar = ""
        return params


class Command(HelpPage, TyperCommand):
    pass


class Group(HelpPage, TyperGroup):
    pass


#: Commands that work in one process. Under torchrun the first one does it, and the others end.
ALONE = (
    *("convert", "data check", "data index", "data pack", "data unpack", "embed", "evaluate", "export", "init"),
    *("probe", "search", "suite", "sweep", "tokenizer eval", "vary"),
)


def idle(command: str) -> bool:
    """Whether the first process of torchrun does the work of a command, rather than this one; says so."""
    rank = rank_and_world()[0]
    if rank > 0:
        print(f"rank {rank} has nothing to do: fourm {command} works in rank 0 (or unset RANK)", file=sys.stderr)
    return rank > 0


def set_up(app: typer.Typer, group: str = "") -> None:
    """Set up all commands of `app` and its groups. A list of commands shows the first sentence of each docstring.
    group: the words before the commands."""
    for command in app.registered_commands:
        assert command.callback is not None
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = command.help or "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        command.short_help = command.short_help or command.help.partition(". ")[0].rstrip(".") + "."
        name = f"{group}{command.name or command.callback.__name__}"
        command.callback = _with_option(command.callback, name)
        if command.cls is TyperCommand:
            command.cls = Command
    for inner in app.registered_groups:
        assert inner.typer_instance is not None
        if solve_typer_info_defaults(inner).cls is TyperGroup:  # a class of its own stays
            inner.cls = Group
        set_up(inner.typer_instance, f"{group}{inner.name} ")


def _with_option(function: Callable[..., Any], command: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, no_plugin: list[str] | None = None, **kwargs: Any) -> Any:
        if no_plugin:
            before = [os.environ[DISABLE]] if os.environ.get(DISABLE) else []
            os.environ[DISABLE] = ",".join([*before, *no_plugin])
        if command in ALONE and idle(command):
            return None
        return function(*args, **kwargs)

    signature = inspect.signature(function, eval_str=True)
    option = Parameter("no_plugin", Parameter.KEYWORD_ONLY, default=None, annotation=_OPTION)
    parameters = [*map(_with_metavar, signature.parameters.values()), option]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _with_metavar(parameter: Parameter) -> Parameter:
    """`parameter`, with a metavar if it has none: the name of an argument, the type of an option."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    annotated, *notes = get_args(parameter.annotation)
    info = next((copy.copy(note) for note in notes if isinstance(note, ParameterInfo)), None)
    if info is None or info.metavar is not None:
        return parameter
    kind = get_args(annotated)[0] if type(None) in get_args(annotated) else annotated
    if isinstance(info, ArgumentInfo):
        info.metavar = parameter.name.upper()
    elif getattr(info, "click_type", None) is None and not (isinstance(info, OptionInfo) and info.count):
        info.metavar = METAVARS.get(get_args(kind)[0] if get_origin(kind) is list else kind)
    return parameter.replace(annotation=Annotated[annotated, info])

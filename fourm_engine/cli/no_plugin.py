"""Adds `--no-plugin NAME` to every command, and help that flows to the terminal's width and leaves room for its words.

The option acts before any import: it adds the names to the environment variable `FOURM_DISABLE`, which the plugin host
reads in this and every child process.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import typer

from fourm_plugins.discovery import DISABLE

_HELP = "A plugin to disable, as if it were not installed; repeatable."
_OPTION = Annotated[list[str] | None, typer.Option("--no-plugin", metavar="NAME", help=_HELP)]


def add_no_plugin(app: typer.Typer) -> None:
    """Adds the option to all commands of `app` and its groups, and joins the lines of their docstrings; a
    list of commands shows the first sentence of each."""
    for command in app.registered_commands:
        assert command.callback is not None
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = command.help or "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        command.short_help = command.short_help or command.help.partition(". ")[0].rstrip(".") + "."
        command.callback = _with_option(command.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        add_no_plugin(group.typer_instance)


def _with_option(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, no_plugin: list[str] | None = None, **kwargs: Any) -> Any:
        if no_plugin:
            before = [os.environ[DISABLE]] if os.environ.get(DISABLE) else []
            os.environ[DISABLE] = ",".join([*before, *no_plugin])
        return function(*args, **kwargs)

    signature = inspect.signature(function, eval_str=True)
    for parameter in signature.parameters.values():
        _name_type(parameter.annotation)
    option = inspect.Parameter("no_plugin", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_OPTION)
    parameters = [*signature.parameters.values(), option]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _name_type(annotation: Any) -> None:
    """Names no type for a flag, and a short one for a number with a range: long names squeeze the help beside them."""
    type_, *extra = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    kinds = set(get_args(type_)) - {type(None)} or {type_}
    for option in extra:
        if isinstance(option, typer.models.OptionInfo) and option.metavar is None:
            if kinds == {bool}:
                option.metavar = ""
            elif kinds <= {int, float} and (option.min, option.max) != (None, None):
                option.metavar = f"<{kinds.pop().__name__}>"

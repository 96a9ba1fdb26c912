"""Sub-commands from packages (entry points `fourm.commands.v1`). `fourm --help` lists them from metadata; a package is
imported only when its command runs."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from fourm_engine.cli.command_setup import HelpPage, set_up
from fourm_engine.cli.exit_messages import misused, reported_elsewhere, tell_error
from fourm_engine.cli.streams import unread
from fourm_plugins.discovery import Plugin, PluginError
from fourm_plugins.distributions import find_distribution

#: Built-in commands, which no package can replace.
BUILT_IN = (
    *("convert", "data", "edit", "embed", "evaluate", "export", "extend", "finetune", "generate", "init"),
    *("label", "plugins", "predict", "probe", "runs", "search", "suite", "sweep", "tokenize", "tokenizer", "train"),
    "vary",
)


def mark_taken(plugins: Iterable[Plugin]) -> list[Plugin]:
    """`plugins`, with commands and sources whose names are those of built-in ones marked as conflicts."""
    plugins, taken = list(plugins), {"command": frozenset(BUILT_IN)}
    if any(plugin.kind == "source" for plugin in plugins):  # keeps a listing without commands fast
        from fourm_engine.storage.url import RESERVED

        taken["source"] = RESERVED
    return [_taken(p) if p.name in taken.get(p.kind, ()) and p.state == "ok" else p for p in plugins]


def _taken(plugin: Plugin) -> Plugin:
    what = f"`fourm {plugin.name}` is a command" if plugin.kind == "command" else f"`{plugin.name}:` is a kind of data"
    reason = f"{what} of fourm-engine, which counts"
    remedy = f"rename the entry point in the pyproject.toml of {plugin.distribution}; install it again"
    return replace(plugin, state="conflict", reason=reason, remedy=remedy)


#: typer vendors click and does not export the base classes of its errors.
_USAGE: Any = typer.BadParameter.mro()[1]
_SHOWN: Any = _USAGE.mro()[1]
#: Deliberate exits.
_MEANT: tuple[Any, ...] = (typer.Exit, typer.Abort, _SHOWN, ValueError, OSError)


class Commands(HelpPage, TyperGroup):
    """The built-in commands, followed by those of packages."""

    def list_commands(self, ctx: Any) -> list[str]:
        from fourm_plugins.manager import PluginManager

        plugins = PluginManager().plugins
        names = {p.name for p in plugins if p.kind == "command" and p.state in ("ok", "conflict")}
        return [*super().list_commands(ctx), *sorted(names - set(BUILT_IN))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        built_in = super().get_command(ctx, cmd_name)
        if built_in is not None:
            return built_in
        from fourm_plugins.manager import PluginManager

        plugins = [p for p in PluginManager().plugins if (p.kind, p.name) == ("command", cmd_name)]
        return _Added(plugins[0]) if plugins else None

    def main(self, *args: Any, **options: Any) -> Any:
        """A command line that is not understood ends with one line, as every error, and exit code 2."""
        if not options.get("standalone_mode", True):
            return super().main(*args, **options)
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.Abort:  # of a question in a package's command
            tell_error("aborted")
            sys.exit(1)
        except _SHOWN as error:
            if not reported_elsewhere(error) and (line := misused(error)):
                tell_error(line)
            sys.exit(error.exit_code)
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # with the 1 of click or rich, which also help is shown by
                end.code = 128 + signal.SIGPIPE
            raise
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            super().invoke(ctx)
            sys.stdout.flush()  # at the end of the process, what cannot be written is no longer an error
            return None  # what a command returns, such as a count, is no exit code
        except _USAGE as error:
            from fourm_plugins.explain import plain  # lazy: pydantic takes longer than a listing

            error.message = plain(error.message)
            alike, error.possibilities = getattr(error, "possibilities", None), None
            option = getattr(error, "option_name", None) or ""
            if hint := _as_setting(option, getattr(error, "ctx", None)) or self._elsewhere(option):
                error.message += hint
            elif alike:
                error.message += f"; did you mean {' or '.join(sorted(alike))}?"
            raise
        except BrokenPipeError as error:
            if not (streams := unread()):  # click would end in silence
                what = "a process or connection that this command writes to has ended"
                raise ValueError(f"{what} (FOURM_TRACEBACK=1 shows which)") from error
            from fourm_engine.train.console import discard

            for stream in streams:
                discard(stream)
            sys.exit(128 + signal.SIGPIPE)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except _USAGE as error:
            groups = [name for name, command in self.commands.items() if args[0] in getattr(command, "commands", ())]
            if groups:
                meant = " and ".join(f"`fourm {group} {args[0]}`" for group in groups)
                error.message = f"No such command {args[0]!r}; there is {meant}"
            raise

    def _elsewhere(self, option: str) -> str:
        """The end of a message about an option that a command lacks: the command that the user may mean."""
        if option.lstrip("-") in BUILT_IN:
            return f"; there is a command `fourm {option.lstrip('-')}`"
        takers = [name for name in BUILT_IN if any(option in p.opts for p in self.commands[name].params)]
        return f"; `fourm {takers[0]}` has it" if len(takers) == 1 else ""


def _as_setting(option: str, context: Any) -> str:
    """The end of a message about an option that a command lacks: how to give it as a setting of the config."""
    taken = {parameter.name for parameter in context.command.params} if option and context else set()
    if "overrides" not in taken or "file" in taken:  # the file of a sweep has other sections
        return ""
    from fourm_engine.recipes.config import RunConfig
    from fourm_plugins.explain import keys_named

    keys = keys_named(option.lstrip("-").replace("-", "_"), RunConfig)
    keys.sort(key=lambda key: (context.command.name not in key.split("."), key.count(".")))  # the command's own first
    return f"; settings of the config are given as KEY=VALUE: {'=… or '.join(keys[:2])}=…" if keys else ""


class _Added(TyperCommand):
    """A package's command before it is called, described by the package's summary."""

    def __init__(self, plugin: Plugin) -> None:
        try:
            summary = find_distribution(plugin.distribution).metadata["Summary"] or ""
        except importlib.metadata.PackageNotFoundError:
            summary = ""
        words = f"{summary} ({plugin.distribution})".strip()
        super().__init__(name=plugin.name, help=words, short_help=words)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        from fourm_plugins.manager import PluginManager

        assert self.name is not None
        host = PluginManager()
        provided, plugin = host.command(self.name), host.find("command", self.name)
        try:
            command = _command(plugin.name, provided)
        except Exception as error:
            raise _failed(plugin, error) from error
        inner = command.invoke

        def invoke(ctx: Any) -> Any:
            try:
                return inner(ctx)
            except _MEANT:
                raise
            except Exception as error:
                raise _failed(plugin, error) from error

        command.invoke = invoke
        return command.make_context(info_name, args, parent=parent, **extra)


def _command(name: str, provided: Any) -> Any:
    app = provided
    if not isinstance(provided, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name)(provided)
    set_up(app)
    return typer.main.get_command(app)


def _failed(plugin: Plugin, error: Exception) -> PluginError:
    return PluginError.of(f"the command {plugin.name!r} of {plugin.distribution} {plugin.version} failed", error)

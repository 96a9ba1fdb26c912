"""Values of any option: counts have a maximum, since memory or work grow with them, and none is empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.cli.commands import BUILT_IN
from fourm_engine.generate.validation import MAX_SAMPLES

#: Numbers that nothing grows with: seeds and positions, counts of what the data has, arithmetic, or ranges that the
#: model sets.
FREE = {
    *("seed", "epoch", "view", "step", "samples_per_shard", "processes", "k", "top_k", "steps", "overlap", "halo"),
    *("evaluate samples", "check samples", "eval samples", "eval pictures", "shots"),
}


def commands(command: Any = None, name: str = "fourm") -> Iterator[tuple[str, Any]]:
    """(name, command) of all that the engine has."""
    command = command or get_command(app)
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
    for child in BUILT_IN if name == "fourm" else children or ():
        yield from commands(children[child], child)


def test_every_count_has_a_maximum():
    free = set()
    for name, command in commands():
        for param in command.params:
            if param.type_descriptor.annotation in (int, list[int]) and param.max is None:
                free.add(f"{name} {param.name}" if f"{name} {param.name}" in FREE else param.name)
    assert free == FREE


def test_too_many_samples_are_refused_at_once(tmp_path):
    limits = {p.max for _, command in commands() for p in command.params if "--n-samples" in p.opts}
    assert limits == {MAX_SAMPLES}
    result = CliRunner().invoke(app, ["generate", "run", "--out", str(tmp_path / "out"), "--n-samples", "99999999"])
    assert result.exit_code == 2
    assert "'--n-samples' / '--samples': must be less than or equal to 1000" in result.output


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["generate", "run", "--input", "a=b", "--out", ""], "--out"),
        (["generate", "run", "--out="], "--out"),
        (["generate", "", "--out", "out"], "RUN"),
        (["data", "pack", "data", ""], "OUT"),
        (["embed", "run", "", "--input", "a", "--out", "out"], "FOLDER"),
        (["train", "config.yaml", ""], "KEY=VALUE"),
        (["generate", "run", "--out", "out", "--input", "a=b", "--input", ""], "--input"),
        (["plugins", "list", "--no-plugin", ""], "--no-plugin"),
    ],
)
def test_no_value_is_empty(arguments, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert f"invalid value for '{name}': it is empty; give a value, or leave it out" in result.output
    assert not any(tmp_path.iterdir())

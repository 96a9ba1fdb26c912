"""Sub-commands that packages add to `fourm`."""

from __future__ import annotations

import re
import sys

import pytest
from typer.main import get_command

from fourm_engine.cli import app, main
from fourm_engine.cli.commands import BUILT_IN
from tests.sdk.sites import entry

GROUP = "fourm.commands.v1"
SOURCE = """
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

def greet(name: str, loud: bool = False):
    "Greet someone."
    print(f"hello {name}".upper() if loud else f"hello {name}")

def measure(
    times: Annotated[int, "how often", typer.Option(help="How often.")] = 1,
    quiet: Annotated[int, typer.Option("-q", count=True)] = 0,
    unit: Annotated[str, "words of another library"] = "m",
    out: Annotated[Path, typer.Option(metavar="FILE")] = Path("x"),
):
    print(f"{times} x {unit}, {quiet}")

def refuse(): raise ValueError("no such folder; make one")
def lack(): raise FileNotFoundError(2, "No such file or directory", "here.txt")
def leave(): raise typer.Exit(4)
def breaks(): return {}["key"]

many = typer.Typer(help="Several.")

@many.command()
def one(): print("one")

@many.command()
def two(): raise KeyError("two")

class Sorted(TyperGroup):
    def list_commands(self, ctx): return sorted(super().list_commands(ctx))

inner = typer.Typer()
inner.command()(refuse)
inner.command()(leave)
many.add_typer(inner, name="inner", cls=Sorted)
"""


@pytest.fixture
def fourm(install, monkeypatch, capsys):
    """fourm(argument, …) -> (exit code, standard output, standard error)."""
    names = {name: f"acme_more:{name}" for name in ("greet", "measure", "refuse", "lack", "leave", "breaks", "many")}
    entries = "".join(f"{name} = {value}\n" for name, value in {**names, "train": "acme_more:greet"}.items())
    install("acme-more", f"[{GROUP}]\n{entries}", source=SOURCE)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fourm", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


def test_the_built_in_commands_are_those_that_no_package_takes_over():
    assert set(BUILT_IN) == set(get_command(app.app).commands)


def test_help_lists_the_commands_of_packages_without_importing_them(fourm):
    code, out, _ = fourm("--help")
    assert code == 0
    for name in ("greet", "refuse", "many"):
        assert f" {name} " in out
    assert "(acme-more)" in out
    assert "acme_more" not in sys.modules


def test_a_function_and_a_group_are_called_with_their_options(fourm):
    assert fourm("greet", "you", "--loud")[:2] == (0, "HELLO YOU\n")
    assert fourm("many", "one")[:2] == (0, "one\n")
    assert "Greet someone." in fourm("greet", "--help")[1]
    assert "no such option" in fourm("greet", "you", "--quiet")[2].lower()


def test_notes_of_other_libraries_counts_and_classes_of_a_package_stay_as_they_are(fourm):
    assert fourm("measure", "--times", "3", "--unit", "km", "-qq")[:2] == (0, "3 x km, 2\n")
    shown = fourm("measure", "--help")[1]
    assert re.search(r"--times +INT", shown)
    assert re.search(r"--out +FILE", shown)
    assert not any("INT" in line for line in shown.splitlines() if "-q" in line)
    listed = fourm("many", "inner", "--help")[1]
    assert listed.index(" leave ") < listed.index(" refuse ")


def test_what_a_command_raises_is_one_line_for_the_user_and_names_the_package_otherwise(fourm):
    assert fourm("refuse") == (1, "", "fourm: error: no such folder; make one\n")
    assert fourm("lack") == (1, "", "fourm: error: here.txt: No such file or directory\n")
    assert fourm("leave") == (4, "", "")
    code, _, told = fourm("breaks")
    assert code == 1
    assert told.startswith("fourm: error: the command 'breaks' of acme-more 1.2 failed with KeyError: 'key' (")
    assert "the command 'many' of acme-more 1.2 failed with KeyError: 'two'" in fourm("many", "two")[2]


def test_a_built_in_command_is_not_taken_over_and_the_list_says_so(fourm):
    assert "Train an any-to-any model" in fourm("train", "--help")[1]
    monitored = fourm("plugins", "list")[1]
    assert (
        "train (command, acme-more 1.2) conflict: `fourm train` is a command of fourm-engine, which counts" in monitored
    )


def test_a_command_of_a_package_that_cannot_be_imported_is_named(fourm, install):
    install("acme-torn", entry("torn", "acme_torn:torn", GROUP), source="raise RuntimeError('torn')")
    code, _, told = fourm("torn")
    assert code == 1
    assert "command 'torn' cannot be activated: acme-torn 1.2 (acme_torn:torn) failed with RuntimeError: torn" in told
    assert "no such command 'tron'" in fourm("tron")[2]

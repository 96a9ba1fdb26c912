"""`fourm plugins check`: the conformance kit on an installed modality, without code or pytest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fourm_plugins.testing.subject import Subject


def check(
    name: Annotated[str, typer.Argument(help="The modality's name, as `fourm plugins list` shows it.")],
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="KEY=VALUE (YAML): a setting of the tested instance."),
    ] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="CLAIM", help="A claim beyond those of the plugin; repeatable.")
    ] = None,
    expect: Annotated[
        list[str] | None, typer.Option(metavar="CHECK=REASON", help="CHECK=REASON: a failure to expect; repeatable.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest error of decode∘encode, as a share of the best constant's.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The package's sources, if not installed from a folder.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report to this file.")
    ] = None,
) -> None:
    """Run the conformance kit on an installed modality; exit code 1 if a check fails."""
    from fourm_engine.files import write_atomically
    from fourm_engine.yaml_config import apply_override
    from fourm_plugins.counting import counted
    from fourm_plugins.testing.check import BAD
    from fourm_plugins.testing.subject import Subject
    from fourm_plugins.testing.suite import CHECKS, report, run_checks

    settings: dict[str, Any] = {}
    for pair in set_ or ():
        if "=" not in pair:
            raise ValueError(f"--set {pair!r}: expected KEY=VALUE, such as image_size=64")
        apply_override(settings, pair)
    if source is not None and not source.is_dir():
        raise ValueError(f"--source {source}: no such folder; name the folder of pyproject.toml")
    subject = Subject(name, settings, claims=frozenset(claim or ()), tolerance=tolerance, source=source)
    try:
        subject.manager.find("modality", name)  # an unknown name is an error, not a failed check
        if settings:
            _check_settings(subject)
        concern = {c.name: c.concern for c in CHECKS}
        outcomes = []
        for outcome in run_checks(subject, CHECKS, _reasons(expect or [])):
            outcomes.append(outcome)
            if outcome.state == "not run":
                continue
            message = f": {outcome.message}" if outcome.message else ""
            mark = "!" if outcome.state in BAD else " "
            print(f"{mark} {outcome.state:16}{concern[outcome.name]:13}{outcome.name}{message}", flush=True)
        for why, number in Counter(o.message for o in outcomes if o.state == "not run").items():
            print(f"  {'not run':16}{counted(number, 'check')} ({why})")
        result = report(subject, tuple(outcomes))
    finally:
        subject.close()
    counts = result.to_json()
    numbers = f"{counts['ran']} ran, {counts['failed']} failed, {counts['expected']} expected to fail"
    numbers += f", {counts['not_claimed']} not claimed"
    numbers += f", {counts['not_run']} not run" if counts["not_run"] else ""
    print(f"{result.modality} ({result.plugin} {result.version}): {numbers}")
    if json_file is not None:
        write_atomically(json_file, json.dumps(result.to_json(), indent=1) + "\n")
    if result.failed:
        raise typer.Exit(1)


def _check_settings(subject: Subject) -> None:
    """Raise PluginError for settings that the modality refuses: the user's mistake, which no check need report."""
    from fourm_plugins.manager import PluginError

    try:
        subject.manager.modality_class(subject.name)
    except PluginError:  # `is_activated` reports it
        return
    subject.make()


def _reasons(pairs: list[str]) -> dict[str, str]:
    reasons = {}
    for pair in pairs:
        name, _, reason = pair.partition("=")
        reasons[name] = reason
    return reasons

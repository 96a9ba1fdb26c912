"""`fourm extend`: a trained model grows by modalities that it did not know, and tells what it forgets."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from fourm_engine.extend.report import Report
    from fourm_engine.extend.source import Extension
    from fourm_engine.recipes.config import RunConfig


class Train(str, Enum):
    rows = "rows"
    lora = "lora"
    all = "all"


def extend(
    run: Annotated[str, typer.Argument(help="Folder of a finished run or of an exported model, or a Hub id.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")] = None,  # noqa: UP045
    *,
    add: Annotated[list[str], typer.Option(help="Modality to add; repeat it for several.")],
    train: Annotated[Train, typer.Option(help="What learns: new rows alone, these and LoRA adapters, or all.")] = (
        Train.rows
    ),
    out: Annotated[Optional[Path], typer.Option(help="Folder of the new run; RUN-<names>-<train>.")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(help="Config in place of RUN/config.yaml.")] = None,  # noqa: UP045
) -> None:
    """Add modalities to a trained model: fit their tokenizers, make their tokens, train, and compare what the model
    predicted before and after. The same command continues what was stopped; torchrun spreads it over processes."""
    from fourm_engine.cli.share import rank_and_world
    from fourm_engine.extend.report import FILE, Report
    from fourm_engine.lock import at_work
    from fourm_engine.recipes.extend import open_extension, train_extension
    from fourm_engine.train.distributed import processes

    settings = extension_config(run, overrides or [], add=add, train=train.value, out=out, config=config)
    with at_work(settings.run):
        extension = open_extension(settings)
        with processes(settings.train):  # joined once for all that follows
            extension.check_same()
            _prepare(settings, extension)
            train_extension(settings, extension)
    if rank_and_world()[0] == 0:
        print_report(Report.load(settings.run / FILE))
        print(settings.run)


def extension_config(
    run: str, overrides: list[str], *, add: list[str], train: str, out: Path | None, config: Path | None
) -> RunConfig:
    """The config of the new run: the old one's, with the model's own modalities and shape, the `extend` section and the
    overrides. Raises ValueError: no model, no config, or a folder that is something else."""
    from fourm_engine import exported
    from fourm_engine.extend.source import find_model
    from fourm_engine.recipes import started
    from fourm_engine.recipes.config import CONFIG, leave_out_missing, parse_config
    from fourm_engine.yaml_config import apply_override, read_yaml

    folder = find_model(run)
    saved = exported.read_config(folder)
    path = config or Path(run) / CONFIG
    if not path.is_file():
        raise ValueError(f"{path}: no such file; say with --config which config tells where the data is")
    raw = read_yaml(path)
    missing = started.relocate(raw, path)
    raw["run"] = str(out or f"{str(run).rstrip('/')}-{'-'.join(add)}-{train}")
    # A config given for this may say more of it; the run's own is about an earlier extension, if it is one.
    raw["extend"] = {**((config and raw.get("extend")) or {}), "source": run, "add": add, "train": train}
    if "model" not in raw:
        raw["model"] = saved.model.model_dump(mode="json")
    modalities = raw["modalities"] = dict(raw.get("modalities") or {})
    modalities["select"] = [*saved.modalities, *add]
    own: dict[str, Any] = {name: {"plugin": m.plugin, **m.settings} for name, m in saved.modalities.items()}
    modalities["settings"] = own | dict(modalities.get("settings") or {})
    for override in overrides:
        apply_override(raw, override)
    leave_out_missing(raw, path, missing, overrides, ("data.train", "data.val"))
    settings = parse_config(raw, str(path))
    _check_out(settings.run, {Path(run), folder})
    return settings


def _check_out(out: Path, taken: set[Path]) -> None:
    from fourm_engine.recipes.config import CONFIG
    from fourm_engine.yaml_config import read_yaml

    if out.resolve() in {path.resolve() for path in taken}:
        raise ValueError(f"--out {out}: that is the model that is extended; choose another folder")
    if not out.exists() or (out.is_dir() and all(path.name.startswith(".") for path in out.iterdir())):
        return
    if not (out / CONFIG).is_file() or read_yaml(out / CONFIG).get("extend") is None:
        raise ValueError(f"--out {out}: it is there, and no run of `fourm extend`; choose another folder")


def _prepare(config: RunConfig, extension: Extension) -> None:
    """Tokenizers of new token spaces, then tokens of all that lacks them."""
    from fourm_engine.cli.share import rank_and_world
    from fourm_engine.cli.tokenize import tokenize_data
    from fourm_engine.cli.tokenizer import fit_space
    from fourm_engine.train.distributed import sum_numbers

    first = rank_and_world()[0] == 0
    for space in extension.unfitted:
        for line in fit_space(config, extension.manager, extension.modalities, space):
            if first:
                print(line, flush=True)
    if config.data.train is not None and config.data.tokens is not None:
        modalities, tokenizers = extension.training, extension.tokenizers()
        tokenize_data(config, modalities, {name: tokenizers[name] for name in modalities if name in tokenizers})
        sum_numbers([0.0])  # no process reads tokens before all are made


def print_report(report: Report) -> None:
    """The table of what was gained and forgotten."""
    import sys

    from rich.console import Console
    from rich.table import Table

    def number(value: float, error: float | None, sign: str = "") -> str:
        return f"{value:{sign}.3f}" + (f" ± {error:.3f}" if error is not None else "")

    title = (
        f"{report.source} + {', '.join(report.add)}, --train {report.train}, {report.steps} steps, "
        f"{report.trained_parameters:,} of {report.parameters:,} parameters; held-out nats per token ± standard error"
    )
    # A pipe has no width of its own; nothing should be cut there.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    columns = ("modality", "asked", "samples", "tokens", "before", "after", "change")
    table = Table(*columns, title=title, title_justify="left")
    asked = {"known": "without the new", "new": "new", "given new": "from the new alone"}
    for row in report.rows:
        before, after = number(row.before, row.before_error), number(row.after, row.after_error)
        change = number(row.change, row.change_error, "+")
        table.add_row(row.modality, asked[row.case], str(row.samples), str(row.tokens), before, after, change)
    console.print(table)
    if report.not_measured:
        console.print(f"took no part: {', '.join(report.not_measured)}", markup=False)

"""`fourm tokenizer`: fit tokenizers to raw files, and evaluate what their tokens preserve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourm_engine.cli.options import Config, Overrides
from fourm_engine.cli.tables import Table, constant_cell, metric_cell, show

if TYPE_CHECKING:
    from fourm_engine.evaluate.tokenizers import TokenizerEvaluation


def evaluate(
    config: Annotated[Path, typer.Argument(help="YAML config whose tokenizers are fitted.")],
    overrides: Overrides = None,
    *,
    modality: Annotated[
        list[str] | None, typer.Option(metavar="MODALITY", help="Only this modality; repeatable.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Use only the first held-out samples.")] = 512,
    pictures: Annotated[int, typer.Option(min=0, help="Number of samples on the sheet.")] = 6,
    features: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Vision network (folder, Hub id) for Fréchet distances.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the report. Default: RUN/tokenizer-evaluation.")
    ] = None,
) -> None:
    """Encode and decode held-out data; print scores and write tokenizers.json and sheet.png."""
    from fourm_engine.recipes import evaluate_tokenizers as recipe
    from fourm_engine.recipes.config import load_config

    settings = load_config(config, overrides or [])
    options: dict[str, Any] = {"samples": samples, "pictures": pictures, "features": features, "out": out}
    evaluation = recipe.evaluate_tokenizers(settings, only=modality or (), **options)
    print_scores(evaluation)
    for path in evaluation.files:
        print(path)


def print_scores(evaluation: TokenizerEvaluation) -> None:
    """Prints a line for each metric of each modality."""
    from fourm_plugins.counting import number

    columns = ("modality", "tokens", "codes", "used", "dead", "perplexity", "metric", "reconstruction", "best constant")
    table = Table(*columns)
    for one in evaluation.tokenizers:
        book = [number(one.tokens), number(one.codes)]
        book += [number(x) for x in (one.used, one.dead)]
        book += [number(one.perplexity)]
        for k, score in enumerate(one.scores or [None]):
            first = [one.modality, *book] if k == 0 else [""] * 6
            cells = ["", "", ""]
            if score is not None:
                cells = [metric_cell(score), number(score.prediction), constant_cell(score)]
            table.add_row(*first, *cells)
    show([table], [f"note: {note}" for note in evaluation.notes])


app = typer.Typer(help="Fit and evaluate tokenizers.", no_args_is_help=True)
app.command("eval")(evaluate)


@app.command("fit")
def fit(
    config: Config,
    overrides: Overrides = None,
    *,
    space: Annotated[list[str] | None, typer.Option(metavar="SPACE", help="Only this token space; repeatable.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, max=256, help="Number of token spaces to fit at once, spread over the GPUs.")
    ] = 1,
    refit: Annotated[
        bool, typer.Option("--refit", help="Replace tokenizers that were fitted with other settings.")
    ] = False,
) -> None:
    """Fit the tokenizer of every token space. Keeps those that are up to date, and resumes unfinished ones. Settings
    that differ from those of a fitted tokenizer are an error that names them."""
    from fourm_engine.recipes import fit as recipe
    from fourm_engine.recipes.config import load_config

    recipe.fit(load_config(config, overrides or []), spaces=space or (), jobs=jobs, refit=refit)

"""`fourm tokenizer …`: `fit`, from raw files to fitted tokenizers, and `eval`, what their tokens keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourm_engine.cli.options import Config, Overrides
from fourm_engine.cli.tables import constant_cell, metric_cell, new_table, show

if TYPE_CHECKING:
    from fourm_engine.evaluate.tokenizers import TokenizerEvaluation


def evaluate(
    config: Annotated[Path, typer.Argument(help="YAML config whose tokenizers are fitted.")],
    overrides: Overrides = None,
    *,
    modality: Annotated[list[str] | None, typer.Option(help="Only this modality; repeat it.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Held-out samples, the first ones.")] = 512,
    pictures: Annotated[int, typer.Option(min=0, help="Samples shown on the sheet.")] = 6,
    features: Annotated[
        str | None, typer.Option(help="Network for distances between sets of pictures, a folder or a Hub id.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; RUN/tokenizer-evaluation.")] = None,
) -> None:
    """Encode and decode held-out data; print scores, write tokenizers.json and sheet.png."""
    from fourm_engine.recipes import evaluate_tokenizers as recipe
    from fourm_engine.recipes.config import load_config

    settings = load_config(config, overrides or [])
    evaluation = recipe.evaluate_tokenizers(
        settings, only=modality or (), samples=samples, pictures=pictures, features=features, out=out
    )
    print_scores(evaluation)
    for path in evaluation.files:
        print(path)


def print_scores(evaluation: TokenizerEvaluation) -> None:
    """A line for each metric of each modality."""
    from fourm_engine.evaluate.report import number

    columns = ("modality", "tokens", "codes", "used", "dead", "perplexity", "metric", "reconstruction", "best constant")
    table = new_table(*columns)
    for one in evaluation.tokenizers:
        book = [number(one.tokens), str(one.codes)]
        book += [str(x) if x is not None else "–" for x in (one.used, one.dead)]
        book += [number(one.perplexity)]
        for k, score in enumerate(one.scores or [None]):
            first = [one.modality, *book] if k == 0 else [""] * 6
            cells = ["", "", ""]
            if score is not None:
                cells = [metric_cell(score), number(score.prediction), constant_cell(score)]
            table.add_row(*first, *cells)
    show([table], [f"note: {note}" for note in evaluation.notes])


app = typer.Typer(help="Fit tokenizers and look at them.", no_args_is_help=True)
app.command("eval")(evaluate)


@app.command("fit")
def fit(
    config: Config,
    overrides: Overrides = None,
    *,
    space: Annotated[list[str] | None, typer.Option(help="Only this token space; may be repeated.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Token spaces fitted at the same time, a process each, spread over the GPUs.")
    ] = 1,
    refit: Annotated[bool, typer.Option(help="Replace tokenizers that were fitted under other settings.")] = False,
) -> None:
    """Fit the tokenizer of every token space; one that is up to date is kept, one half done goes on. Where a modality's
    settings are not those that its tokenizer was fitted under, an error says which."""
    from fourm_engine.recipes import fit as recipe
    from fourm_engine.recipes.config import load_config

    recipe.fit(load_config(config, overrides or []), spaces=space or (), jobs=jobs, refit=refit)

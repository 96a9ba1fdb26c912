"""`fourm tokenizer eval`: what tokens keep of held-out data, in each modality's own metrics, and how they use their
codebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from fourm_engine.evaluate.tokenizers import TokenizerEvaluation


def evaluate(
    config: Annotated[Path, typer.Argument(help="YAML config whose tokenizers are fitted.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")] = None,  # noqa: UP045
    *,
    modality: Annotated[Optional[list[str]], typer.Option(help="Only this modality; repeat it.")] = None,  # noqa: UP045
    samples: Annotated[int, typer.Option(min=1, help="Held-out samples, the first ones.")] = 512,
    pictures: Annotated[int, typer.Option(min=0, help="Samples shown on the sheet.")] = 6,
    features: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Network for distances between sets of pictures, a folder or a Hub id."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the report; RUN/tokenizer-evaluation."),
    ] = None,
) -> None:
    """Encode and decode held-out data; print scores, write tokenizers.json and sheet.png."""
    from fourm_engine.cli.share import local_device
    from fourm_engine.evaluate.tokenizers import FOLDER
    from fourm_engine.lock import at_work
    from fourm_engine.recipes.config import load_config
    from fourm_engine.recipes.evaluate_tokenizers import evaluate_tokenizers

    settings = load_config(config, overrides or [])
    out = out or settings.run / FOLDER
    with at_work(out):
        found = evaluate_tokenizers(
            settings,
            only=modality or [],
            samples=samples,
            pictures=pictures,
            features=features,
            out=out,
            device=local_device(),
        )
    print_scores(found)
    for path in found.files:
        print(path)


def print_scores(evaluation: TokenizerEvaluation) -> None:
    """A line for each metric of each modality."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from fourm_engine.evaluate.report import number

    # A pipe has no width of its own; nothing should be cut there.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table(
        "modality", "tokens", "codes", "used", "dead", "perplexity", "metric", "reconstruction", "best constant"
    )
    for one in evaluation.tokenizers:
        book = [number(one.tokens), str(one.codes)]
        book += [str(x) if x is not None else "–" for x in (one.used, one.dead)]
        book += [number(one.perplexity)]
        for k, score in enumerate(one.scores or [None]):
            first = [one.modality, *book] if k == 0 else [""] * 6
            if score is None:
                table.add_row(*first, "", "", "")
                continue
            constant = score.best_constant
            beside = f"{number(constant[1])} ({constant[0]})" if constant else ""
            arrow = "↑" if score.higher_is_better else "↓"
            metric = f"{score.metric} {arrow}" + (f" ({score.unit})" if score.unit else "")
            table.add_row(*first, metric, number(score.prediction), beside)
    console.print(table)
    for note in evaluation.notes:
        console.print(f"note: {note}", markup=False)

"""`fourm probe`: kNN, linear and attentive probes on a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourm_engine.cli.options import Device, Run, Seed, Sizes, sizes
from fourm_engine.cli.tables import Table, show

_MEASURES = ("top1", "top5", "mean_class")


def probe(
    run: Run,
    data: Annotated[
        str, typer.Argument(help="Folder with a sub-folder per class, or with train/ and val/ of those; see --labels.")
    ],
    given: Annotated[
        list[str], typer.Option("--input", metavar="MODALITY", help="Input modality; repeatable with --labels.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for probe.json and the cached features.")],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="JSON {sample: class}, CSV sample,class, or column:NAME of a table; DATA: as data.train.",
        ),
    ] = None,
    val_labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="Labels of --val, if it reuses sample names.")
    ] = None,
    val: Annotated[str | None, typer.Option(metavar="DATA", help="Validation data, like DATA.")] = None,
    share: Annotated[
        float, typer.Option("--held-out", min=0.01, max=0.99, help="Share per class, without --val.")
    ] = 0.2,
    probes: Annotated[
        list[str] | None, typer.Option("--probe", metavar="PROBE", help="knn, linear or attentive; repeatable.")
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Training samples per class of a few-shot probe; repeatable. Default: 1 to 100."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of draws of each few-shot probe.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Of the attentive probe.")] = 20,
    size: Sizes = None,
    batch_size: Annotated[int, typer.Option(min=1, max=10_000, help="Samples at a time.")] = 32,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Evaluate kNN, linear, attentive and few-shot probes on the features of a frozen model."""
    chosen = sizes(size)

    from fourm_engine.recipes import probe as recipe

    result = recipe.probe(
        run,
        data,
        given,
        out,
        val=val,
        labels=labels,
        val_labels=val_labels,
        share=share,
        probes=probes or recipe.PROBES,
        shots=shots or (),
        seeds=seeds,
        epochs=epochs,
        size=chosen,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    table = Table("probe", "top-1", "top-5", "mean of classes", "")
    for name, one in result["probes"].items():
        settings = ", ".join(f"{key.replace('_', ' ')} {one[key]:g}" for key in one if key not in _MEASURES)
        table.add_row(name, *(f"{one[key]:.3f}" if key in one else "–" for key in _MEASURES), settings)
    for one in result["few_shot"]:
        deviation = "" if one["std"] is None else f" ± {one['std']:.3f}"
        drawn = f"{len(one['top1']):,} draws" if len(one["top1"]) > 1 else "one draw"
        table.add_row(f"linear, {one['shots']} a class", f"{one['mean']:.3f}{deviation}", "–", "–", drawn)
    table.add_row("most frequent class", f"{result['chance']:.3f}", "–", "–", f"{len(result['classes']):,} classes")
    show([table])

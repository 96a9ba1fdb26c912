"""`fourm vary`: vary one thing of a request over a range, and draw a sheet of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.generation_options import generates
from fourm_engine.cli.options import Given, Run, values

_FORM = "expected WHAT=FROM:TO:COUNT, WHAT=a,b,c or, of words and files, WHAT=this|that"


@generates
def vary(
    run: Run,
    over: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="WHAT=VALUES",
            help="WHAT=FROM:TO:COUNT, WHAT=a,b,c, or WHAT=this|that for words and files. WHAT is a part of an input "
            "(boxes.0.x), an input, guidance, guidance.NAME, temperature, top_p, top_k, steps, seed. Twice: a table.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The sheet, a .png.")],
    given: Given = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY", help="Modality to generate; repeatable. Default: all that are not inputs."),
    ] = None,
    options: Any = None,
) -> None:
    """Vary one part of an input, or one option, and draw the results side by side."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: the sheet is a .png; change the extension")
    for option in ("reduce", "explain"):
        if options.pop(option):
            raise ValueError(f"--{option} is for fourm generate; leave it out")
    if options.pop("n_samples") != 1:
        raise ValueError("--n-samples: vary the seed, --vary seed=0:4:5")
    inputs, axes = values("--input", given), dict(_axis(text) for text in over)
    if len(axes) < len(over):
        raise ValueError("--vary: the same thing is given twice; give it once")

    from fourm_engine.recipes import generate as recipe

    recipe.vary(run, inputs, target or None, axes, out, **options)


def _axis(text: str) -> tuple[str, list[Any]]:
    what, _, right = text.partition("=")
    if not (what and right):
        raise ValueError(f"--vary {text!r}: {_FORM}")
    if "|" in right:
        return what, [part.strip() for part in right.split("|")]
    ends = right.split(":")
    if len(ends) == 3 and all(map(_is_number, ends)):
        low, high, count = float(ends[0]), float(ends[1]), float(ends[2])
        if not 2 <= count <= 400 or count != int(count):
            raise ValueError(f"--vary {text!r}: {ends[2]} is not a number of values; expected 2 to 400")
        return what, [round(low + (high - low) * k / (int(count) - 1), 12) for k in range(int(count))]
    parts = right.split(",")
    if not all(map(_is_number, parts)):
        raise ValueError(f"--vary {text!r}: {_FORM}")
    return what, [float(part) for part in parts]


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < 1e300
    except ValueError:
        return False

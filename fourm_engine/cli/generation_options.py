"""Options shared by the commands that generate, as arguments of `FourM.generate`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from fourm_engine.cli.options import Device, Providers, Seed, Tokenizers, pairs


def generates(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the parameters of `_options` to a command, which receives them as `options`, {argument of the recipe:
    value}."""
    shown = [p for p in _parameters(command) if p.name != "options"] + (shared := _parameters(_options))
    keyword = Parameter.KEYWORD_ONLY
    taken = Signature([p if p.default is Parameter.empty else p.replace(kind=keyword) for p in shown])

    @functools.wraps(command)
    def run(*first: Any, **more: Any) -> None:
        bound = taken.bind(*first, **more)
        bound.apply_defaults()
        given = dict(bound.arguments)
        options = _options(**{p.name: given.pop(p.name) for p in shared})
        command(**given, options=options)

    run.__signature__ = taken  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in shown}
    del run.__wrapped__  # or typer would read the signature of the wrapped command
    return run


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    # Before Python 3.11, `get_type_hints` would wrap the types of options that are None by default.
    return list(signature(function, eval_str=True).parameters.values())


def _options(
    seed: Seed = 0,
    samples: Annotated[int, typer.Option("--n-samples", "--samples", min=1, max=1000, help="Number of samples.")] = 1,
    reduce: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="Combine the samples: mean, median or vote, or TARGET=mean; repeatable."),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Modalities to generate in order, NAME,NAME; or auto, from the any-to-any matrix."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print what would run, without running it.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Decoding steps of grids.")] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Decoding order of grids: parallel, random_order, halton, remask, entropy, or a package's.",
        ),
    ] = None,
    order: Annotated[
        list[str] | None, typer.Option(metavar="KEY=NUMBER", help="SETTING=NUMBER for the scheme; repeatable.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0: the likeliest tokens; above 0: samples.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Nucleus sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from the k most likely tokens.")] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WEIGHT",
            help="WEIGHT of all inputs, or NAME=WEIGHT, repeatable; 1 is plain, below 0 leads away. WEIGHT,WEIGHT "
            "is a schedule from the first step to the last.",
        ),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHT@RUN",
            help="Lead away from what a weaker model of the same tokens predicts, such as 2@runs/early; 1 is plain.",
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGION",
            help="NAME=WEIGHT@x0,y0,x1,y1, of a box in [0, 1] of a picture or map that is given, or NAME=WEIGHT@FILE, "
            "a mask, white there; repeat it.",
        ),
    ] = None,
    device: Device = None,
    tokenizer: Tokenizers = None,
    provider: Providers = None,
) -> dict[str, Any]:
    return {
        "seed": seed,
        "n_samples": samples,
        "reduce": _one_or_each("--reduce", reduce, "NAME, or TARGET=NAME"),
        "plan": plan if plan in (None, "auto") else [name for name in str(plan).split(",") if name],
        "explain": explain,
        "steps": steps,
        "scheme": scheme,
        "order": {k: _number("--order", v) for k, v in pairs("--order", order, "SETTING=NUMBER").items()} or None,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "guidance": _guidance(guidance),
        "guide": _guide(guide),
        "regions": _regions(region),
        "device": device,
        "tokenizers": pairs("--tokenizer", tokenizer, "MODALITY=SOURCE"),
        "providers": pairs("--provider", provider, "NAME=DISTRIBUTION"),
    }


def _one_or_each(option: str, texts: Iterable[str] | None, form: str) -> str | dict[str, str] | None:
    """The only value, or {name: value}; None if there is none."""
    texts = list(texts or ())
    return texts[0] if len(texts) == 1 and "=" not in texts[0] else pairs(option, texts, form) or None


def _guidance(texts: Iterable[str] | None) -> Any:
    given = _one_or_each("--guidance", texts, "WEIGHT, or NAME=WEIGHT")
    if isinstance(given, dict):
        return {name: numbers("--guidance", text) for name, text in given.items()}
    return None if given is None else numbers("--guidance", given)


def _guide(text: str | None) -> tuple[float | list[float], str] | None:
    """(weight, run)"""
    if text is None:
        return None
    weight, _, run = text.partition("@")
    if not (weight and run) or "://" in weight:  # a URL may hold a password
        raise ValueError("--guide: expected WEIGHT@RUN, such as 2@runs/early")
    return numbers("--guide", weight), run


def _regions(texts: Iterable[str] | None) -> dict[str, list[tuple[float, Any]]]:
    """{name: [(weight, box or file of a mask)]}"""
    regions: dict[str, list[tuple[float, Any]]] = {}
    for text in texts or ():
        name, _, right = text.partition("=")
        weight, _, where = right.partition("@")
        if not (name and weight and where):
            raise ValueError(f"--region {text!r}: expected NAME=WEIGHT@x0,y0,x1,y1 or NAME=WEIGHT@FILE")
        file = Path(where).suffix[1:].isalpha() or Path(where).exists()
        box = "," in where and not file
        part = [_number(f"--region {name}", edge) for edge in where.split(",")] if box else where
        if box and len(part) != 4:
            raise ValueError(f"--region {name}: {where} is not a box; expected four numbers, x0,y0,x1,y1")
        regions.setdefault(name, []).append((_number(f"--region {name}", weight), part))
    return regions


def numbers(option: str, text: str) -> float | list[float]:
    """A number, or numbers that commas separate."""
    parts = [_number(option, part) for part in text.split(",")]
    return parts if len(parts) > 1 else parts[0]


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option}: {text!r:.80} is not a number") from None

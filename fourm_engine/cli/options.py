"""Arguments and options shared by several commands, and options of the form NAME=VALUE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path, typer.Argument(help="YAML config.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings in place of the config's, such as train.lr=3e-4."),
]
OtherConfig = Annotated[Path | None, typer.Option(metavar="FILE", help="Config to use instead of RUN/config.yaml.")]
Providers = Annotated[
    list[str] | None, typer.Option(metavar="NAME=DIST", help="NAME=DISTRIBUTION, if two provide a plugin; repeatable.")
]

# Commands that generate
Run = Annotated[str, typer.Argument(help="Folder of a run or exported model, or a Hub id.")]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for the results; --explain needs none.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="NAME=FILE, such as picture=photo.jpg, NAME=words or NAME=JSON. Whatever looks like a path must exist; "
        "NAME=text:words is never a path. Repeatable.",
    ),
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="List in the splits.json of --data.")]
ManyBatchSize = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="For many samples: batch size. Default: 16.")
]
ManyWorkers = Annotated[int | None, typer.Option(min=0, max=256, help="For many samples: processes that read ahead.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all draws; same seed, same result.")]
Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="cpu or cuda. Default: a GPU if there is one.")]
Tokenizers = Annotated[
    list[str] | None, typer.Option(metavar="NAME=SOURCE", help="MODALITY=SOURCE of a tokenizer it lacks; repeatable.")
]


def values(option: str, texts: Iterable[str] | None) -> dict[str, Any]:
    """{name: path, words, JSON, or `Typed` words}, from NAME=…"""
    parts = pairs(option, texts, "NAME=FILE, NAME=words, NAME=JSON or NAME=text:words")

    from fourm_engine.generate.input_types import TEXT, Typed

    return {name: Typed(text[len(TEXT) :]) if text.startswith(TEXT) else text for name, text in parts.items()}


def given_values(texts: Iterable[str] | None, *, bare: bool) -> dict[str, Any]:
    """`values` of --input; with `bare`, a name without a value has None."""
    names = [text for text in texts or () if bare and "=" not in text]
    return values("--input", [text for text in texts or () if text not in names]) | dict.fromkeys(names)


def pairs(option: str, texts: Iterable[str] | None, form: str) -> dict[str, str]:
    """{name: value} of an option. Raises ValueError that shows the expected `form`, or names a duplicate."""
    parsed: dict[str, str] = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not (name and value):
            raise ValueError(f"{option} {text!r}: expected {form}")
        if name in parsed:
            raise ValueError(f"{option} {name}: given twice; give it once")
        parsed[name] = value
    return parsed


Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="PIXELS",
        help="Pixels of pictures and other grids, 224 or 224x448 (rows x columns), if not the training size; or "
        "NAME=224 for one input. Repeatable.",
    ),
]


def sizes(texts: Iterable[str] | None) -> Any:
    """None, one size for all inputs, or {name: size}."""
    named, common = list[str](), list[str]()
    for text in texts or ():
        (named if "=" in text else common).append(text)
    if common and (named or len(common) > 1):
        raise ValueError(f"--size {common[0]}: is of all inputs; give one size, or NAME=SIZE of each")
    if common:
        return _size(common[0])
    return {name: _size(text) for name, text in pairs("--size", named, "NAME=SIZE").items()} or None


def _size(text: str) -> int | tuple[int, int]:
    edges = text.lower().split("x")
    if not all(edge.isascii() and edge.isdigit() and len(edge) < 6 and int(edge) for edge in edges) or len(edges) > 2:
        raise ValueError(f"--size {text!r}: expected pixels, such as 224, or rows x columns, such as 224x448")
    return int(edges[0]) if len(edges) == 1 else (int(edges[0]), int(edges[1]))


def part_of(option: str, text: str) -> tuple[int, int]:
    """(k, n) from K/N. Raises ValueError for anything else."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ValueError(f"{option} {text!r}: expected K/N, such as 0/2 and 1/2 for two halves")
    return int(part), int(parts)


def by_target(option: str, texts: Iterable[str] | None, targets: Sequence[str]) -> dict[str, str]:
    """{target: value}; a value without a name belongs to the only target."""
    texts = list(texts or ())
    if len(targets) == 1:
        texts = [text if "=" in text else f"{targets[0]}={text}" for text in texts]
    example = next((text for text in texts if "=" not in text), "") or "NAME"
    return pairs(option, texts, f"TARGET=NAME, such as {targets[0] if targets else 'TARGET'}={example}")


def settings_by_target(option: str, texts: Iterable[str] | None, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{target: {key: value}} from TARGET.KEY=VALUE; values are YAML, as in config overrides."""
    from fourm_engine.yaml_config import read_value

    settings: dict[str, dict[str, Any]] = {}
    for text in texts or ():
        path, equals, value = text.partition("=")
        target, dot, key = path.rpartition(".")
        if not (equals and dot and target and key):
            raise ValueError(f"{option} {text!r}: expected TARGET.KEY=VALUE")
        if target not in targets:
            raise ValueError(f"{option} {text!r}: {target} is not among --to")
        settings.setdefault(target, {})[key] = read_value(value, f"{option} {text!r}")
    return settings

"""The published format of 4M models and tokenizers: a safetensors file with the constructor's arguments.

In: the file, with the arguments in a `config.json` next to it or as Python literals in its metadata. Out: arguments,
shapes and tied tensors; or the file, when writing.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fourm_engine.files import replacing_file, write_atomically
from fourm_engine.weights import opened, tensor_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_LITERAL = 1 << 16  # characters per argument in the metadata
#: Arguments that every published model, or tokenizer, has.
_TELLING = frozenset({"domains_in", "enc_type"})
#: Stored positions were computed in float32, with angles of up to 512 radians.
POSITION_TOLERANCE = 1e-3
#: Formats of folders that this project writes: a model, a trained task.
OURS = ("fourm", "fourm-head")


#: Extensions of files that contain no weights: for example a config, given instead of its run.
_OTHERS = (".yaml", ".yml", ".json", ".txt", ".jsonl", ".html", ".png", ".jpg", ".csv")


def find(path_or_folder: str | Path) -> Path | None:
    """The weights file of a published checkpoint, given the file or its folder; None for anything else.

    Raises ValueError for the weights of one of our models, which is loaded by its folder."""
    path = Path(path_or_folder)
    if path.is_file():
        if path.suffix in _OTHERS:
            return None
        beside = _config(path.parent)
        if path.name == WEIGHTS and isinstance(beside, dict) and beside.get("format") in OURS:
            raise ValueError(f"{path}: the weights alone; name their folder, {path.parent}")
        return path
    weights = path / WEIGHTS
    if not weights.is_file():
        return None
    config = _config(path)
    if not isinstance(config, dict) or config.get("format") == OURS[0]:
        return None
    if not config:
        try:
            with tensor_file(weights) as file:
                config = file.metadata() or {}
        except (SafetensorError, OSError):
            return None
    return weights if _TELLING & config.keys() else None


def _config(folder: Path) -> Any:
    """The contents of `config.json`; {} if there is none, None if it cannot be read."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8")) if path.stat().st_size <= MAX_CONFIG_BYTES else None
    except (ValueError, OSError, RecursionError):
        return None


def read_arguments(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], dict[str, str]]:
    """(constructor's arguments, {tensor: shape}, tied tensors) of a safetensors file, without reading a tensor.

    Raises ValueError if it is not a safetensors file, or has no arguments."""
    with opened(path) as file:
        metadata = file.metadata() or {}
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    tied = {gone: kept for gone, kept in metadata.items() if kept in shapes and gone not in shapes}
    beside = path.with_name(CONFIG)
    arguments: dict[str, Any] = {key: _literal(path, key, text) for key, text in metadata.items() if key not in tied}
    arguments.pop("format", None)
    if not arguments and beside.is_file():
        if beside.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"{beside}: larger than {MAX_CONFIG_BYTES} bytes; this is no model's config")
        try:
            arguments = json.loads(beside.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{beside}: not JSON: {error}") from None
        if not isinstance(arguments, dict):
            raise ValueError(f"{beside}: not an object of arguments")
    if not arguments:
        raise ValueError(f"{path}: no arguments in its metadata and no {CONFIG} beside it; fetch {CONFIG}, too")
    return arguments, shapes, tied


def _literal(path: Path, key: str, text: str) -> Any:
    """A Python literal, or the string itself if it is not one (names such as GELU are stored bare)."""
    if len(text) > MAX_LITERAL:
        raise ValueError(f"{path}: metadata {key!r} has {len(text)} characters; this is no model's argument")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return text


def write_checkpoint(path: Path, tensors: dict[str, Tensor], arguments: dict[str, Any]) -> None:
    """Write `path` with the arguments in its metadata and in a `config.json` next to it, both atomically."""
    metadata = {key: str(value) for key, value in arguments.items()}
    with replacing_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", **metadata})
        write_atomically(path.with_name(CONFIG), json.dumps(arguments, indent=1) + "\n")

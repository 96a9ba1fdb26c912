"""The published format of 4M models: its config, its tensors, and how both map to ours.

In: a safetensors file with the constructor's arguments as a `config.json` beside it or as Python literals in the
file's metadata. Out: `ModelConfig`, the domains in the file's order, and our state dict; and all of it back. Strict: a
missing, unknown or misshapen tensor is an error naming it. Names of modalities are the file's own, and data.

    ours                                   published
    context_proj.*                         decoder_proj_context.*
    rows of embedding.encoder_table        encoder_embeddings.<domain>.token_emb.weight
    embedding.projections.<name>.weight    encoder_embeddings.<domain>.proj.weight
    embedding.modality[i]                  encoder_embeddings.<domain>.mod_emb, decoder_embeddings.<domain>.mod_emb
    rows of embedding.decoder_table        decoder_embeddings.<domain>.token_emb.weight
    registers                              register_tokens
    rows of heads.weight                   decoder_embeddings.<domain>.to_logits.weight
    (computed)                             *.pos_emb, and the zero biases of norms that have none
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fourm_engine.files import replacing_file, write_atomically
from fourm_engine.nn.embeddings import sine_cosine_1d, sine_cosine_2d
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_engine.weights import check_shapes, opened
from fourm_plugins.spec import Grid, Layout, Sequence

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_LITERAL = 1 << 16  # characters of one argument in the metadata
#: Far beyond any model; these bounds stop a hostile config from building for hours.
MAX_WIDTH, MAX_BLOCKS, MAX_DOMAINS = 1 << 15, 1 << 10, 1 << 10
#: Stored positions were computed in float32, with angles of up to 512 radians.
POSITION_TOLERANCE = 1e-3
#: Arguments that must have this value if present, since our model supports no other.
FIXED_ARGUMENTS = {"decoder_sep_mask": True, "share_modality_embeddings": True}
#: Arguments that every published model, or tokenizer, has.
_TELLING = frozenset({"domains_in", "enc_type"})
_BIASES = ("qkv_bias", "proj_bias", "mlp_bias", "norm_bias")


@dataclass(frozen=True)
class Domain:
    """One modality of a file: `size` ids, or continuous tokens of `patch_dim` numbers each; the other is 0."""

    name: str
    layout: Layout
    size: int
    patch_dim: int
    input: bool
    target: bool


@dataclass
class Checkpoint:
    """An opened file: the contents of its header and config; `tensor` reads the rest."""

    path: Path
    arguments: dict[str, Any]  # as the format stores them
    shapes: dict[str, tuple[int, ...]]
    #: Tied tensors that the file holds once: left out -> held, as `safetensors` notes in the metadata.
    tied: dict[str, str]
    config: ModelConfig
    domains: list[Domain] = field(default_factory=list)

    def tensor(self, key: str) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.tied.get(key, key))


#: Formats of folders that this project writes: a model, a trained task.
OURS = ("fourm", "fourm-head")


def find(path_or_folder: str | Path) -> Path | None:
    """The weights file of a published checkpoint, given the file or its folder; None for anything else.

    Raises ValueError for the weights of a model of ours, whose folder is what loads."""
    path = Path(path_or_folder)
    if path.is_file():
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
            with safe_open(weights, framework="pt") as file:
                config = file.metadata() or {}
        except (SafetensorError, OSError):
            return None
    return weights if _TELLING & config.keys() else None


def _config(folder: Path) -> Any:
    """What `config.json` holds; {} where there is none, None where it cannot be read."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8")) if path.stat().st_size <= MAX_CONFIG_BYTES else None
    except (ValueError, OSError, RecursionError):
        return None


def read_arguments(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], dict[str, str]]:
    """(constructor's arguments, {tensor: shape}, tied tensors) of a safetensors file, without reading a tensor.

    Raises ValueError where it is no such file, or no arguments are found."""
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
    """A Python literal, or the string itself where it is none (names such as GELU are stored bare)."""
    if len(text) > MAX_LITERAL:
        raise ValueError(f"{path}: metadata {key!r} has {len(text)} characters; this is no model's argument")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return text


def open_checkpoint(path: Path) -> Checkpoint:
    """Raises ValueError naming the file and the argument or tensor that is wrong."""
    arguments, shapes, tied = read_arguments(path)
    checkpoint = Checkpoint(path, arguments, shapes, tied, _model_config(path, arguments))
    names = {key: _names(path, arguments, key) for key in ("domains_in", "domains_out")}
    for name in dict.fromkeys([*names["domains_in"], *names["domains_out"]]):
        checkpoint.domains.append(_domain(checkpoint, name, name in names["domains_in"], name in names["domains_out"]))
    _check(checkpoint)
    return checkpoint


def _names(path: Path, arguments: Mapping[str, Any], key: str) -> list[str]:
    names = arguments.get(key)
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: {key} is {names!r:.80}, not a list of names; this is no published 4M model")
    if len(names) > MAX_DOMAINS or len(set(names)) != len(names):
        raise ValueError(f"{path}: {key} has {len(names)} names, some of them twice or far too many")
    return list(names)


def _model_config(path: Path, arguments: Mapping[str, Any]) -> ModelConfig:
    for key, only in FIXED_ARGUMENTS.items():
        if arguments.get(key, only) != only:
            raise ValueError(f"{path}: {key}={arguments[key]!r}; only models with {key}={only!r} are supported")
    biases = {key: arguments.get(key, True) for key in _BIASES}
    if len(set(biases.values())) != 1:
        raise ValueError(f"{path}: {', '.join(f'{k}={v}' for k, v in biases.items())}; they must be all on or all off")
    gated = arguments.get("gated_mlp", False)
    activation, wanted = str(arguments.get("act_layer", "GELU")), "SiLU" if gated else "GELU"
    if not re.search(rf"\b{wanted}\b", activation):
        raise ValueError(f"{path}: act_layer={activation!r} with gated_mlp={gated}; supported is {wanted}")
    try:
        config = ModelConfig.model_validate(
            {
                "width": arguments["dim"],
                "encoder_blocks": arguments["encoder_depth"],
                "decoder_blocks": arguments["decoder_depth"],
                "heads": arguments["num_heads"],
                "mlp_ratio": float(arguments.get("mlp_ratio", 4.0)),
                "mlp": "swiglu" if gated else "gelu",
                "bias": biases["qkv_bias"],
                "qk_norm": arguments.get("qk_norm", False),
                "registers": arguments.get("num_register_tokens", 0),
                "decoder_causal": arguments.get("decoder_causal_mask", False),
            }
        )
    except KeyError as error:
        raise ValueError(f"{path}: argument {error} is missing; this is no published 4M model") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the arguments of a 4M model: {' '.join(str(error).split()):.300}") from None
    if config.width > MAX_WIDTH or max(config.encoder_blocks, config.decoder_blocks) > MAX_BLOCKS:
        raise ValueError(f"{path}: a model of width {config.width} is beyond what is loaded; the file is damaged")
    return config


def _shape(checkpoint: Checkpoint, key: str, dims: int) -> tuple[int, ...]:
    shape = checkpoint.shapes.get(checkpoint.tied.get(key, key))
    if shape is None:
        raise ValueError(f"{checkpoint.path}: {key} is missing")
    if len(shape) != dims:
        raise ValueError(f"{checkpoint.path}: {key} has shape {shape}, expected {dims} dimensions")
    return shape


def _domain(checkpoint: Checkpoint, name: str, is_input: bool, is_target: bool) -> Domain:
    side = "encoder_embeddings" if is_input else "decoder_embeddings"
    size = patch_dim = 0
    if f"{side}.{name}.proj.weight" in checkpoint.shapes:
        patch_dim = _shape(checkpoint, f"{side}.{name}.proj.weight", 2)[1]
        if is_target:
            raise ValueError(f"{checkpoint.path}: {name} is pixels and a target; only tokens can be predicted")
    else:
        size = _shape(checkpoint, f"{side}.{name}.token_emb.weight", 2)[0]
    key, width = f"{side}.{name}.pos_emb", checkpoint.config.width
    _, rows, columns = _shape(checkpoint, key, 3)
    if columns != width or rows > 1 << 16:
        raise ValueError(f"{checkpoint.path}: {key} has shape {(1, rows, columns)}, expected (1, tokens, {width})")
    stored, edge = checkpoint.tensor(key)[0].float(), math.isqrt(rows)
    layout: Layout
    if edge**2 == rows and _close(stored, sine_cosine_2d(edge, edge, width)):
        layout = Grid(height=edge, width=edge)
    elif rows % 2 == 0 and _close(stored, sine_cosine_1d(rows, width)):
        layout = Sequence(max_tokens=rows // 2)  # targets hold sentinels, too, and may be twice as long
    else:
        raise ValueError(f"{checkpoint.path}: {key} holds neither the positions of a square grid nor of a sequence")
    return Domain(name, layout, size, patch_dim, is_input, is_target)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() < POSITION_TOLERANCE)


def _check(checkpoint: Checkpoint) -> None:
    """Checks names and shapes of all tensors, and that stored positions and zero biases equal the computed ones."""
    vocabulary = vocabulary_of(checkpoint.domains)
    with torch.device("meta"):
        network = Transformer(checkpoint.config, vocabulary)
    names = {domain.name: domain.name for domain in checkpoint.domains}
    expected = {
        key: tuple(tensor.shape)
        for key, tensor in _published_tensors(network, vocabulary, checkpoint.domains, names).items()
    }
    shapes = checkpoint.shapes | {gone: checkpoint.shapes[kept] for gone, kept in checkpoint.tied.items()}
    check_shapes(shapes, expected, f"{checkpoint.path} does not fit its arguments")
    for name in _bare_norms(network):
        if checkpoint.tensor(f"{name}.bias").any():
            raise ValueError(f"{checkpoint.path}: {name}.bias is not zero, but norm_bias=False")
    for domain in checkpoint.domains:
        if domain.target:
            stored = checkpoint.tensor(f"decoder_embeddings.{domain.name}.pos_emb")[0].float()
            if not _close(stored, _positions(domain.layout, checkpoint.config.width)):
                raise ValueError(f"{checkpoint.path}: decoder_embeddings.{domain.name}.pos_emb is not sine-cosine")
        if domain.input and domain.target:
            keys = [f"{side}_embeddings.{domain.name}.mod_emb" for side in ("encoder", "decoder")]
            if not torch.equal(*(checkpoint.tensor(key) for key in keys)):
                raise ValueError(f"{checkpoint.path}: {keys[0]} and {keys[1]} are one tensor, but differ")


def vocabulary_of(domains: Iterable[Domain], names: Mapping[str, str] | None = None) -> Vocabulary:
    """Rows in the file's order; `names`: domain -> our name, by default the domain's."""
    entries, start = [], 0
    for index, d in enumerate(domains):
        entries.append(Entry((names or {}).get(d.name, d.name), index, start, start + d.size, d.layout, d.patch_dim))
        start += d.size
    return Vocabulary(entries)


def build_network(checkpoint: Checkpoint, domains: list[Domain], names: Mapping[str, str]) -> Transformer:
    """The network of some or all of the domains, on the CPU. `names`: domain -> our name. A domain that is not input
    (or target) in the file has zero rows there."""
    vocabulary = vocabulary_of(domains, names)
    with torch.device("meta"):
        network = Transformer(checkpoint.config, vocabulary)
    network.to_empty(device="cpu")
    network.tabulate()
    with torch.no_grad():
        for table in (network.embedding.encoder_table, network.embedding.decoder_table, network.heads.weight):
            table.zero_()
        views = _published_tensors(network, vocabulary, domains, names)
        with safe_open(checkpoint.path, framework="pt") as file:
            for key, view in views.items():
                if not key.endswith(".pos_emb"):
                    view.copy_(file.get_tensor(checkpoint.tied.get(key, key)))
    return network.eval()


def to_published(
    network: Transformer, vocabulary: Vocabulary, domains: list[Domain], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Tensors under their published names, on the CPU, none sharing memory. `names`: domain -> our name."""
    views = _published_tensors(network, vocabulary, domains, names)
    return {key: view.detach().cpu().clone().contiguous() for key, view in views.items()}


def write_checkpoint(path: Path, tensors: dict[str, Tensor], arguments: dict[str, Any]) -> None:
    """`path` with the arguments in its metadata and in a `config.json` beside it; each appears at once."""
    metadata = {key: str(value) for key, value in arguments.items()}
    with replacing_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", **metadata})
        write_atomically(path.with_name(CONFIG), json.dumps(arguments, indent=1) + "\n")


def arguments_of(config: ModelConfig, domains: list[Domain], *, image_size: int, patch_size: int) -> dict[str, Any]:
    """The constructor's arguments for a model that did not come from the published format."""
    return {
        "domains_in": [d.name for d in domains if d.input],
        "domains_out": [d.name for d in domains if d.target],
        "image_size": image_size,
        "patch_size": patch_size,
        "dim": config.width,
        "encoder_depth": config.encoder_blocks,
        "decoder_depth": config.decoder_blocks,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        **dict.fromkeys(_BIASES, config.bias),
        "gated_mlp": config.mlp == "swiglu",
        "qk_norm": config.qk_norm,
        "num_register_tokens": config.registers,
        "act_layer": "SiLU" if config.mlp == "swiglu" else "GELU",
        "decoder_causal_mask": config.decoder_causal,
        **FIXED_ARGUMENTS,
    }


def _published_tensors(
    network: Transformer, vocabulary: Vocabulary, domains: list[Domain], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Published key -> the part of our network that it is: views of the parameters, so that copying into them loads.
    Positions and zero biases are new tensors."""
    embedding, width = network.embedding, network.config.width
    views: dict[str, Tensor] = {"mask_token": embedding.mask_token.view(1, 1, width)}
    if network.registers is not None:
        views["register_tokens"] = network.registers[None]
    for key, parameter in network.named_parameters():
        if not key.startswith(("embedding.", "heads.", "registers")):
            views[key.replace("context_proj.", "decoder_proj_context.")] = parameter
    for name, norm in _bare_norms(network).items():
        views[f"{name}.bias"] = torch.zeros_like(norm.weight)
    for domain in domains:
        entry = vocabulary[names[domain.name]]
        modality = embedding.modality[entry.index].view(1, 1, width)
        for side, used in (("encoder", domain.input), ("decoder", domain.target)):
            if not used:
                continue
            stem = f"{side}_embeddings.{domain.name}"
            views[f"{stem}.mod_emb"] = modality
            views[f"{stem}.pos_emb"] = _positions(domain.layout, width)[None]
            if domain.patch_dim:
                projection = embedding.projections[entry.name]
                assert isinstance(projection, nn.Linear)
                views[f"{stem}.proj.weight"] = projection.weight
                continue
            table = embedding.encoder_table if side == "encoder" else embedding.decoder_table
            views[f"{stem}.token_emb.weight"] = table[entry.start : entry.stop]
            if side == "decoder":
                views[f"{stem}.to_logits.weight"] = network.heads.weight[entry.start : entry.stop]
    return views


def _bare_norms(network: Transformer) -> dict[str, nn.LayerNorm]:
    """Norms without a bias, whose biases the format stores as zeros."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.LayerNorm) and m.bias is None}


def _positions(layout: Layout, width: int) -> Tensor:
    if isinstance(layout, Grid):
        return sine_cosine_2d(layout.height, layout.width, width)
    if not isinstance(layout, Sequence):
        raise ValueError(f"the published format has grids and sequences, no {layout.kind}")
    return sine_cosine_1d(2 * layout.max_tokens, width)

"""Published models: their arguments and tensors, and how both map to ours.

In: a file (`published`). Out: `ModelConfig`, the domains in the file's order, and our state dict; and the reverse.
Strict: a missing, unknown or misshapen tensor is an error naming it. Names of modalities come from the file and are
treated as data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from fourm_engine.convert.published import POSITION_TOLERANCE, read_arguments
from fourm_engine.convert.tensors import Domain, Part, bare_norms, computed, parts_of, vocabulary_of
from fourm_engine.nn.embeddings import sine_cosine_1d, sine_cosine_2d
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.vocabulary import Vocabulary
from fourm_engine.weights import Read, check_shapes, read_rows, tensor_file
from fourm_plugins.errors import one_line
from fourm_plugins.explain import explain
from fourm_plugins.spec import Grid, Layout, Sequence, Vector

#: Far beyond any model.
MAX_DOMAINS = 1 << 10
#: Maximum number of learned positions; a larger table that is neither a grid's nor a sequence's is damaged.
MAX_LEARNED = 64
#: Arguments that must have this value if present, since our model supports no other.
FIXED_ARGUMENTS = {"decoder_sep_mask": True, "share_modality_embeddings": True}
_BIASES = ("qkv_bias", "proj_bias", "mlp_bias", "norm_bias")


@dataclass
class Checkpoint:
    """An opened file: the contents of its header and config; `tensor` reads the rest."""

    path: Path
    arguments: dict[str, Any]  # in the dtype of the file
    shapes: dict[str, tuple[int, ...]]
    #: Tied tensors that the file stores once: omitted -> stored, as `safetensors` notes in the metadata.
    tied: dict[str, str]
    config: ModelConfig
    domains: list[Domain] = field(default_factory=list)

    def tensor(self, key: str) -> Tensor:
        with tensor_file(self.path) as file:
            return file.get_tensor(self.tied.get(key, key))


def open_checkpoint(path: Path) -> Checkpoint:
    """Raises ValueError naming the file and the invalid argument or tensor."""
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
        return ModelConfig.model_validate(
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
    except ValidationError as error:
        raise ValueError(f"{path}: not the arguments of a 4M model: {'; '.join(explain(error, ModelConfig))}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the arguments of a 4M model: {one_line(error):.300}") from None


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
    projections = [key for part in ("proj", "emb_proj") if (key := f"{side}.{name}.{part}.weight") in checkpoint.shapes]
    if projections:
        patch_dim = _shape(checkpoint, projections[0], 2)[1]
        if is_target:
            raise ValueError(f"{checkpoint.path}: {name} has no ids and is a target; only tokens can be predicted")
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
        layout = Sequence(max_tokens=rows // 2)  # targets also contain sentinels, and may be twice as long
    elif rows <= MAX_LEARNED and not patch_dim:
        layout = Vector(length=rows)
    else:
        raise ValueError(f"{checkpoint.path}: {key} holds neither the positions of a square grid nor of a sequence")
    return Domain(name, layout, size, patch_dim, is_input, is_target, rows if isinstance(layout, Sequence) else 0)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() < POSITION_TOLERANCE)


def _check(checkpoint: Checkpoint) -> None:
    """Checks names and shapes of all tensors, and that stored positions and zero biases equal the computed ones."""
    vocabulary = vocabulary_of(checkpoint.domains)
    with torch.device("meta"):
        network = Transformer(checkpoint.config, vocabulary)
    names = {domain.name: domain.name for domain in checkpoint.domains}
    parts = parts_of(network, vocabulary, checkpoint.domains, names)
    fixed = computed(network, checkpoint.domains)
    expected = {key: part.shape for key, part in parts.items()}
    expected |= {key: tuple(tensor.shape) for key, tensor in fixed.items()}
    shapes = checkpoint.shapes | {gone: checkpoint.shapes[kept] for gone, kept in checkpoint.tied.items()}
    check_shapes(shapes, expected, f"{checkpoint.path} does not fit its arguments")
    for name in bare_norms(network):
        if checkpoint.tensor(f"{name}.bias").any():
            raise ValueError(f"{checkpoint.path}: {name}.bias is not zero, but norm_bias=False")
    for domain in checkpoint.domains:
        key = f"decoder_embeddings.{domain.name}.pos_emb"
        if key in fixed and not _close(checkpoint.tensor(key).float(), fixed[key]):
            raise ValueError(f"{checkpoint.path}: {key} is not sine-cosine")
        if domain.input and domain.target:
            keys = [f"{side}_embeddings.{domain.name}.mod_emb" for side in ("encoder", "decoder")]
            if not torch.equal(*(checkpoint.tensor(key) for key in keys)):
                raise ValueError(f"{checkpoint.path}: {keys[0]} and {keys[1]} are one tensor, but differ")


def blank_network(checkpoint: Checkpoint, domains: list[Domain], names: Mapping[str, str]) -> Transformer:
    """The network of some or all of the domains, on the meta device. `names`: domain -> our name."""
    with torch.device("meta"):
        return Transformer(checkpoint.config, vocabulary_of(domains, names)).eval()


def build_network(checkpoint: Checkpoint, domains: list[Domain], names: Mapping[str, str]) -> Transformer:
    """The same with the file's weights, on the CPU."""
    network = blank_network(checkpoint, domains, names)
    read = reader(checkpoint, network, domains, names)
    network.to_empty(device="cpu")
    network.init_buffers()
    for name, parameter in network.named_parameters():
        read(parameter.detach(), name, 0)
    return network


def reader(checkpoint: Checkpoint, network: Transformer, domains: list[Domain], names: Mapping[str, str]) -> Read:
    """A reader of rows of our parameters from the file. A domain that is not an input (or target) has zero rows there.
    `network` may be on the meta device."""
    by_name: dict[str, list[tuple[str, Part]]] = {}
    for key, part in parts_of(network, vocabulary_of(domains, names), domains, names).items():
        by_name.setdefault(part.name, []).append((checkpoint.tied.get(key, key), part))

    def read(rows: Tensor, name: str, first: int) -> None:
        rows.zero_()
        for key, part in by_name.get(name, ()):
            low, high = max(first, part.first), min(first + len(rows), part.stop)
            if low < high:
                # Leading axes of length 1, as in a position table, occur in small tensors, which are read at once.
                leading = len(part.shape) - rows.ndim
                read_rows(checkpoint.path, key, rows[low - first : high - first], low - part.first, leading=leading)

    return read


def to_published(
    network: Transformer, vocabulary: Vocabulary, domains: list[Domain], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Tensors under their published names, on the CPU, none sharing memory. `names`: domain -> our name."""
    parameters = dict(network.named_parameters())
    tensors = {
        key: parameters[part.name][part.first : part.stop].reshape(part.shape)
        for key, part in parts_of(network, vocabulary, domains, names).items()
    }
    tensors |= computed(network, domains)
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}


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

"""The published format of tokenizers, `VQVAE` and `DiVAE`: arguments and tensors, both ways.

In: the arguments and tensors of a safetensors file, or a tokenizer of ours. Out: the settings and the state of kinds
`vqvae` and `divae`, or the file's contents again. Strict: a missing, unknown or misshapen tensor is an error naming it.

    ours                                        published
    encoder.proj, quant_proj, post_quant_proj   convolutions: weights (out, in, rows, columns)
    quantiser.codes                             quantize._codebook.embed
    cls_emb.weight, with a last row of zeros    cls_emb.weight: what is unknown has no feature
    (computed)                                  *.pos_emb
    (carried along, for the way back)           quantize._codebook.initted, .cluster_size, .embed_avg
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.convert import published
from fourm_engine.nn.embeddings import sine_cosine_2d
from fourm_engine.tokenizers.divae import DiVAETokenizer
from fourm_engine.tokenizers.neural import Carried
from fourm_engine.tokenizers.vit import SIZES, CodecSettings, DecoderSettings
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_engine.weights import check_shapes, tensor_file
from fourm_plugins.spec import ClassMap, FeatureMap, Grid, ModalitySpec, TokenizerRecipe, TokenSpace

CODECS = {f"vit_{size.lower()}": numbers for size, numbers in SIZES.items()}
UNETS: dict[str, dict[str, Any]] = {
    "unet_patched": {
        "patch": 4,
        "width": 256,
        "multipliers": (1, 2, 2, 2),
        "blocks": 3,
        "attention": (4, 8),
        "groups": 32,
    }
}
#: Nominal patch size of maps with one cell per token.
_FEATURE_PATCH = 16
#: State of the published training, which does not affect ids.
_TRAINING = re.compile(r"^quantize\._codebook\.(initted|cluster_size|embed_avg)$")
_CODES = "quantize._codebook.embed"
_MAX_SIZE = 1 << 13
#: DDIM steps of the published diffusion decoders.
_STEPS = 25
#: diffusion settings -> arguments.
_DIFFUSION = {
    "prediction": "prediction_type",
    "schedule": "beta_schedule",
    "timesteps": "num_train_timesteps",
    "zero_terminal_snr": "zero_terminal_snr",
    "clip_sample": "clip_sample",
    "thresholding": "thresholding",
}


# From the published format


def kind_of(arguments: Mapping[str, Any]) -> type[VQVAETokenizer]:
    return DiVAETokenizer if str(arguments["dec_type"]).startswith("unet") else VQVAETokenizer


def spec_of(
    path: Path, arguments: Mapping[str, Any], spec: ModalitySpec | None, image_size: int | None
) -> ModalitySpec:
    """`spec` if it fits the file, or one made from the arguments. Raises ValueError naming the argument."""
    image, patch, codes = image_size or arguments["image_size"], arguments["patch_size"], arguments["codebook_size"]
    labels, channels = arguments.get("n_labels"), arguments["n_channels"]
    if not (0 < patch <= image <= _MAX_SIZE and image % patch == 0):
        raise ValueError(f"{path}: image_size={image}, patch_size={patch} are no sizes of a tokenizer")
    if spec is None:
        tokens = image // patch
        size = tokens if arguments.get("patch_proj") is False else image
        return ModalitySpec(
            name="tokens",
            layout=Grid(height=tokens, width=tokens),
            array=ClassMap(classes=labels, height=size, width=size)
            if labels
            else FeatureMap(channels=channels, height=size, width=size, gaps=True),
            token_space=TokenSpace(name="tokens", size=codes),
            tokenizer=TokenizerRecipe(kind=kind_of(arguments).kind),
            source="tokens",
            extensions=("bin",),
        )
    array = spec.array
    if not (isinstance(spec.layout, Grid) and isinstance(array, (FeatureMap, ClassMap))):
        raise ValueError(f"{path}: a tokenizer of grids, but modality {spec.name!r} is a {spec.layout.kind}")
    here: dict[str, tuple[Any, Any]] = {
        "codebook_size": (codes, spec.token_space.size if spec.token_space else 0),
        "n_labels": (labels, array.classes if isinstance(array, ClassMap) else None),
        "patch_size": (1 if arguments.get("patch_proj") is False else patch, spec.patch[0]),
    }
    if isinstance(array, FeatureMap):
        here["n_channels"] = channels, array.channels
    for name, (there, wanted) in here.items():
        if there != wanted:
            raise ValueError(f"{path}: {name} is {there}, but {spec.name!r} has {wanted}; set it in the plugin")
    return spec


def settings_of(path: Path, arguments: Mapping[str, Any], spec: ModalitySpec) -> dict[str, Any]:
    """Settings of `kind_of(arguments)`. Raises ValueError naming an unsupported argument."""
    if arguments.get("quant_type", "lucid") != "lucid":
        raise ValueError(f"{path}: quant_type={arguments['quant_type']!r}; only 'lucid' is supported")
    if arguments.get("undo_std"):
        raise ValueError(f"{path}: undo_std is not supported")
    tokens = arguments["image_size"] // arguments["patch_size"]
    assert isinstance(spec.layout, Grid)
    assert spec.token_space is not None
    other = (spec.layout.height, spec.layout.width) != (tokens, tokens) or spec.token_space.shared
    shared: dict[str, Any] = {"post_mlp": bool(arguments.get("post_mlp", False))}
    shared |= {"position_grid": (tokens, tokens)} if other else {}
    settings: dict[str, Any] = {
        "encoder": _sizes(path, arguments, "enc_type", {f"{name}_enc": sizes for name, sizes in CODECS.items()})
        | shared,
        "latent_dim": arguments.get("latent_dim", 32),
        "normalise_codes": arguments.get("norm_codes", True),
    }
    if kind_of(arguments) is VQVAETokenizer:
        decoders = {f"{name}_dec": sizes for name, sizes in CODECS.items()}
        settings["decoder"] = _sizes(path, arguments, "dec_type", decoders) | shared
        settings["class_dim"] = arguments["n_channels"] if arguments.get("n_labels") else 8
        return settings
    settings["decoder"] = _sizes(path, arguments, "dec_type", UNETS)
    settings["diffusion"] = {ours: arguments[theirs] for ours, theirs in _DIFFUSION.items()}
    settings["diffusion"]["steps"] = min(_STEPS, arguments["num_train_timesteps"])
    settings["condition_dropout"] = arguments.get("cls_free_guidance_dropout", 0.0)
    return settings


def _sizes(path: Path, arguments: Mapping[str, Any], key: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if str(arguments[key]) not in known:
        raise ValueError(f"{path}: {key}={arguments[key]!r} is not supported; {', '.join(known)} are")
    return dict(known[str(arguments[key])])


def read_state(
    path: Path,
    arguments: dict[str, Any],
    planned: VQVAETokenizer,
    shapes: Mapping[str, tuple[int, ...]],
    tied: Mapping[str, str],
) -> dict[str, Tensor]:
    """Our state, read after checking that every tensor of the file has the name and shape that `planned` (which may be
    on the meta device) implies. Raises ValueError naming those that do not."""
    shapes_there = {key: shapes[tied.get(key, key)] for key in (*shapes, *tied)}
    targets, positions = _places(planned), _positions(planned)
    expected = {key: shape for key, (_, shape) in targets.items()} | {k: tuple(p.shape) for k, p in positions.items()}
    learned = {key: _same(shape, expected.get(key)) for key, shape in shapes_there.items() if not _TRAINING.match(key)}
    check_shapes(learned, expected, f"{path} does not fit its arguments")
    for key in shapes_there.keys() - learned.keys():
        if math.prod(shapes_there[key]) > math.prod(shapes_there[_CODES]):
            raise ValueError(f"{path}: {key} has shape {shapes_there[key]}, more numbers than the codebook")
    state, carried = dict[str, Tensor](), dict[str, Tensor]()
    with tensor_file(path) as file:
        for key in shapes_there:
            value = file.get_tensor(tied.get(key, key))
            if key not in targets:
                carried[key] = value
            else:
                state[targets[key][0]] = _ours(value.to(torch.float32), *targets[key], planned)
    for key, table in positions.items():
        if (carried[key].float() - table).abs().max() > published.POSITION_TOLERANCE:
            raise ValueError(f"{path}: {key} does not hold sine-cosine positions; learned ones are not supported")
    odd = {key: list(shapes_there[key]) for key, (_, shape) in targets.items() if shapes_there[key] != shape}
    planned.carried = Carried(arguments, carried, odd)
    return state


def _ours(value: Tensor, name: str, shape: tuple[int, ...], planned: VQVAETokenizer) -> Tensor:
    if name == "cls_emb.weight":
        value = F.pad(value, (0, 0, 0, 1))
    return value.reshape(planned.state(copy=False)[name].shape)


def _same(there: tuple[int, ...], expected: tuple[int, ...] | None) -> tuple[int, ...]:
    """Whether shapes are equal except for axes of length 1, which codes and last projections may have."""
    if expected is not None and [n for n in there if n != 1] == [n for n in expected if n != 1]:
        return expected
    return there


def _places(tokenizer: VQVAETokenizer) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Published key -> (our name, shape in the file)."""
    keys = {}
    for name, value in tokenizer.state(copy=False).items():
        shape = tuple(value.shape)
        if name == "encoder.proj.weight":
            p, q = tokenizer.spec.patch
            shape = (shape[0], shape[1] // (p * q), p, q)
        elif name in ("quant_proj.weight", "post_quant_proj.weight"):
            shape = (*shape, 1, 1)
        elif name == "cls_emb.weight":
            shape = (shape[0] - 1, shape[1])
        keys[_CODES if name == "quantiser.codes" else name] = name, shape
    return keys


def _positions(tokenizer: VQVAETokenizer) -> dict[str, Tensor]:
    """The computed tables, (1, width, rows, columns), for the grid of the file."""
    assert isinstance(tokenizer.spec.layout, Grid)
    grid, tables = (tokenizer.spec.layout.height, tokenizer.spec.layout.width), {}
    for side in ("encoder", "decoder"):
        codec = getattr(tokenizer.settings, side)
        if isinstance(codec, CodecSettings):
            rows, columns = codec.position_grid or grid
            table = sine_cosine_2d(rows, columns, codec.width)
            tables[f"{side}.pos_emb"] = table.T.reshape(1, codec.width, rows, columns).contiguous()
    return tables


# To the published format


def arguments_of(tokenizer: VQVAETokenizer) -> dict[str, Any]:
    """The constructor's arguments. Raises ValueError for anything the format cannot hold."""
    spec, s = tokenizer.spec, tokenizer.settings
    assert isinstance(spec.layout, Grid)
    assert isinstance(spec.array, (FeatureMap, ClassMap))
    diffusion = isinstance(tokenizer, DiVAETokenizer)
    if s.quantiser != "vq" or s.heads != 1:
        raise ValueError(f"{spec.name}: quantiser {s.quantiser!r} of {s.heads} heads; the published format has one vq")
    grids = {getattr(s, side).position_grid for side in ("encoder", "decoder")[: 1 if diffusion else 2]}
    post_mlp = {getattr(s, side).post_mlp for side in ("encoder", "decoder")[: 1 if diffusion else 2]}
    rows, columns = grids.pop() or (spec.layout.height, spec.layout.width)
    if grids or rows != columns or spec.patch[0] != spec.patch[1]:
        raise ValueError(f"{spec.name}: a grid of {rows}x{columns} tokens; the published format has square ones")
    if len(post_mlp) > 1:
        raise ValueError(f"{spec.name}: post_mlp differs in encoder and decoder; the published format has one of both")
    features = spec.patch == (1, 1)
    patch = _FEATURE_PATCH if features else spec.patch[0]
    arguments: dict[str, Any] = {
        "image_size": rows * patch,
        "n_channels": s.class_dim if isinstance(spec.array, ClassMap) else spec.array.channels,
        **({"n_labels": spec.array.classes} if isinstance(spec.array, ClassMap) else {}),
        "patch_size": patch,
        **({"patch_proj": False} if features else {}),
        "post_mlp": post_mlp.pop(),
        "codebook_size": tokenizer.size,
        "latent_dim": s.latent_dim,
        "norm_codes": s.normalise_codes,
        "quant_type": "lucid",
        "sync_codebook": False,
        "enc_type": f"{_codec(spec, 'encoder', s.encoder)}_enc",
    }
    if not diffusion:
        return arguments | {"dec_type": f"{_codec(spec, 'decoder', s.decoder)}_dec"}
    sizes = s.decoder.model_dump()
    matching = [name for name, known in UNETS.items() if sizes == known]
    if not matching:
        raise ValueError(f"{spec.name}: no decoder of the published format has {sizes}; it has {UNETS}")
    return {
        **arguments,
        "dec_type": matching[0],
        **{theirs: getattr(s.diffusion, ours) for ours, theirs in _DIFFUSION.items()},
        "cls_free_guidance_dropout": s.condition_dropout,
    }


def _codec(spec: ModalitySpec, side: str, codec: CodecSettings) -> str:
    sizes = {"width": codec.width, "blocks": codec.blocks, "heads": codec.heads}
    if isinstance(codec, DecoderSettings) and codec.conv_tail:
        raise ValueError(f"{spec.name}: a decoder with conv_tail {codec.conv_tail}; the published format has none")
    for name, known in CODECS.items():
        if sizes == known and codec.mlp_ratio == 4:
            return name
    shown = ", ".join(f"{name} {known}" for name, known in CODECS.items())
    raise ValueError(
        f"{spec.name}: no {side} of the published format has {sizes} and mlp_ratio {codec.mlp_ratio}; it has {shown}, "
        f"with 4"
    )


def write_state(tokenizer: VQVAETokenizer) -> dict[str, Tensor]:
    """Tensors under their published names, on the CPU."""
    state, spec = tokenizer.state(), tokenizer.spec
    if "cls_emb.weight" in state and state["cls_emb.weight"][-1].any():
        raise ValueError(f"{spec.name}: pixels without a class have a feature, which the published format cannot hold")
    odd = {} if tokenizer.carried is None else tokenizer.carried.shapes
    tensors: dict[str, Tensor] = {}
    for key, (name, shape) in _places(tokenizer).items():
        value = state[name][:-1] if name == "cls_emb.weight" else state[name]
        tensors[key] = value.reshape(odd.get(key, shape)).contiguous()
    if tokenizer.carried is not None:
        return tensors | tokenizer.carried.tensors
    training = {"initted": torch.ones(1), "cluster_size": torch.zeros(tokenizer.size)}
    return tensors | _positions(tokenizer) | {f"quantize._codebook.{k}": value for k, value in training.items()}

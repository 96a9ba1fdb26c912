"""Published tokenizers: VQ-VAEs as safetensors, and the WordPiece vocabulary.

In: a file, folder or Hub id. Out: our tokenizers of the kinds `vqvae` and `wordpiece`, with the same ids and the same
reconstructions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from fourm_engine import exported
from fourm_engine.convert import published
from fourm_engine.nn.embeddings import sine_cosine_2d
from fourm_engine.tokenizers.store import DOCUMENT, load_tokenizer
from fourm_engine.tokenizers.vit import SIZES
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from fourm_plugins.manager import PluginManager
from fourm_plugins.spec import ClassMap, FeatureMap, Grid, ModalitySpec, TokenizerRecipe, TokenSpace
from fourm_plugins.tokenizer import Tokenizer

CODECS = {f"vit_{size.lower()}": numbers for size, numbers in SIZES.items()}
_CODEC = re.compile(r"^(vit_[sbl])_(enc|dec)$")
#: State of the published training, which says nothing of ids.
_TRAINING = re.compile(r"^quantize\._codebook\.(initted|cluster_size|embed_avg)$")
_MAX_SIZE = 1 << 13


def load_for(place: str | Path, specs: Sequence[ModalitySpec]) -> Tokenizer:
    """The tokenizer of one token space: a folder of ours, a published VQ-VAE, or a WordPiece vocabulary (.json)."""
    path = Path(place)
    if (path / DOCUMENT).is_file():
        return load_tokenizer(path, specs, PluginManager())
    if specs[0].layout.kind == "sequence":
        if not path.is_file():
            raise ValueError(f"{place}: no such file; a WordPiece vocabulary in the JSON of `tokenizers` is needed")
        return load_wordpiece(path, specs)
    return load_vqvae(place, specs[0])


def load_wordpiece(path: Path, specs: Sequence[ModalitySpec]) -> WordPieceTokenizer:
    """The published vocabulary, ids as they are."""
    tokenizer = WordPieceTokenizer(specs, vocabulary=path)
    tokenizer.fit(lambda: ())
    # What is saved says that the vocabulary was loaded, and not where it lay.
    tokenizer.settings = tokenizer.settings.model_copy(update={"vocabulary": Path(path.name)})
    return tokenizer


def load_vqvae(place: str | Path, spec: ModalitySpec | None = None, *, image_size: int | None = None) -> VQVAETokenizer:
    """A published VQ-VAE. `image_size`: pixels of a side, where no `spec` says it and it is not the file's.

    `spec`: the modality it is for, of which layout, array and number of ids must fit; by default one made from the
    file, called `tokens`. Its grid may differ from that of the file: positions are then resized. Raises ValueError
    naming the argument or tensor that does not fit."""
    path = published.find(place)
    path = path or published.find(exported.locate(place))
    if path is None:
        raise ValueError(f"{place}: no published tokenizer")
    arguments, shapes, tied = published.read_arguments(path)
    try:
        spec = _spec(path, arguments, spec, image_size)
        tokenizer = VQVAETokenizer([spec], **_settings(path, arguments, spec))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the arguments of a published tokenizer: {error!r}") from None
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(tied.get(key, key)) for key in (*shapes, *tied) if not _TRAINING.match(key)}
    tokenizer.adopt(_state(path, tokenizer, state))
    return tokenizer


def _spec(path: Path, arguments: Mapping[str, Any], spec: ModalitySpec | None, image_size: int | None) -> ModalitySpec:
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
            tokenizer=TokenizerRecipe(kind="vqvae"),
            source="tokens",
            extensions=("bin",),
        )
    array = spec.array
    here: dict[str, tuple[Any, Any]] = {
        "codebook_size": (codes, spec.token_space.size if spec.token_space else 0),
        "n_labels": (labels, array.classes if isinstance(array, ClassMap) else None),
        "patch_size": (1 if arguments.get("patch_proj") is False else patch, spec.patch[0]),
    }
    if isinstance(array, FeatureMap):
        here["n_channels"] = channels, array.channels
    for name, (there, wanted) in here.items():
        if there != wanted:
            raise ValueError(
                f"{path}: {name} is {there}, but modality {spec.name!r} has {wanted}; set it in the plugin"
            )
    return spec


def _settings(path: Path, arguments: Mapping[str, Any], spec: ModalitySpec) -> dict[str, Any]:
    if arguments.get("quant_type", "lucid") != "lucid":
        raise ValueError(f"{path}: quant_type={arguments['quant_type']!r}; only 'lucid' is supported")
    if arguments.get("undo_std"):
        raise ValueError(f"{path}: undo_std is not supported")
    codecs: dict[str, dict[str, Any]] = {}
    for side, key in (("encoder", "enc_type"), ("decoder", "dec_type")):
        kind = _CODEC.match(str(arguments[key]))
        if not kind:
            known = ", ".join(f"{codec}_{side[:3]}" for codec in CODECS)
            raise ValueError(f"{path}: {key}={arguments[key]!r} is not supported; {known} are")
        codecs[side] = {**CODECS[kind[1]], "post_mlp": bool(arguments.get("post_mlp", False))}
        tokens = arguments["image_size"] // arguments["patch_size"]
        assert isinstance(spec.layout, Grid)
        assert spec.token_space is not None
        if (spec.layout.height, spec.layout.width) != (tokens, tokens) or spec.token_space.shared:
            codecs[side]["position_grid"] = (tokens, tokens)
    return {
        **codecs,
        "latent_dim": arguments.get("latent_dim", 32),
        "class_dim": arguments["n_channels"] if arguments.get("n_labels") else 8,
        "normalise_codes": arguments.get("norm_codes", True),
    }


def _state(path: Path, tokenizer: VQVAETokenizer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names, and convolutions as products. Raises ValueError for a missing, unknown or misshapen tensor."""
    wanted, state = tokenizer.state(), {}
    for key, value in tensors.items():
        name = key.replace("quantize._codebook.embed", "quantiser.codes")
        if name in ("encoder.pos_emb", "decoder.pos_emb"):
            _check_positions(path, key, value)  # computed
            continue
        if name in ("encoder.proj.weight", "quant_proj.weight", "post_quant_proj.weight", "decoder.out_proj.weight"):
            value = value.flatten(1)
        if name == "quantiser.codes" and value.ndim == 3:
            value = value[0]
        if name == "cls_emb.weight":
            # Ours has one more row, for pixels without a class: what is unknown has no feature.
            value = F.pad(value, (0, 0, 0, 1))
        if name not in wanted:
            raise ValueError(f"{path}: {key} is unknown")
        if value.shape != wanted[name].shape:
            raise ValueError(f"{path}: {key} has shape {tuple(tensors[key].shape)}, which does not fit the arguments")
        state[name] = value.to(torch.float32)
    positions = {"encoder.pos_emb", "decoder.pos_emb"} - tensors.keys()
    if missing := sorted((wanted.keys() - state.keys()) | positions):
        raise ValueError(f"{path}: {_published_key(missing[0])} is missing")
    return state


def _check_positions(path: Path, key: str, value: Tensor) -> None:
    if value.ndim != 4 or value.shape[0] != 1 or value.shape[1] % 4 or max(value.shape) > _MAX_SIZE:
        raise ValueError(f"{path}: {key} has shape {tuple(value.shape)}, expected (1, width, rows, columns)")
    _, width, rows, columns = value.shape
    computed = sine_cosine_2d(rows, columns, width).T.reshape(value.shape)
    if (value.float() - computed).abs().max() > published.POSITION_TOLERANCE:
        raise ValueError(f"{path}: {key} does not hold sine-cosine positions; learned ones are not supported")


def _published_key(name: str) -> str:
    return name.replace("quantiser.codes", "quantize._codebook.embed")

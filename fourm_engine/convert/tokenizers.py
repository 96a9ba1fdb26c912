"""Loads tokenizers: our folders, published VQ-VAEs and DiVAEs, and the WordPiece vocabulary; and converts back.

In: a file, folder or Hub id. Out: a fitted tokenizer of kind `vqvae`, `divae`, `wordpiece`, or the kind of one of our
folders, with the same ids and the same reconstructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from fourm_engine import exported
from fourm_engine.convert import published
from fourm_engine.convert.tokenizer_format import arguments_of, kind_of, read_state, settings_of, spec_of, write_state
from fourm_engine.device import choose_device
from fourm_engine.tokenizers.store import DOCUMENT, load_tokenizer, read_document
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from fourm_plugins.explain import explain
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ModalitySpec, TokenizerRecipe, TokenSpace
from fourm_plugins.spec import Sequence as SequenceLayout
from fourm_plugins.spec import Text as TextArray
from fourm_plugins.tokenizer import Tokenizer


def open_tokenizer(
    source: str | Path,
    modality: ModalitySpec | Sequence[ModalitySpec] | None = None,
    *,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    manager: PluginManager | None = None,
    revision: str | None = None,
) -> Tokenizer:
    """A fitted tokenizer by itself. `encode` turns a list of arrays into int64 ids, and `decode` ids into arrays, both
    as `tokenizer.spec.array` describes: float32 (channels, height, width), as the modality's `normalise` makes it.

    Args:
        source: a tokenizer's folder, a published tokenizer (its safetensors file, a folder with it, or a Hub id at
            `revision`), or a WordPiece vocabulary (.json).
        modality: the spec that it is for, or those that share its token space; by default those that its folder was
            stored with, else one made from the file, called `tokens`.
        image_size: pixels per side that a published tokenizer takes, if neither the spec nor the file's size will do.
        device: where its network computes.

    Raises ValueError if there is none, or it is damaged or made for other arrays."""
    device = choose_device(device)
    specs = [modality] if isinstance(modality, ModalitySpec) else list(modality or ())
    path = _find(source, revision)
    tokenizer: Tokenizer
    if (path / DOCUMENT).is_file():
        tokenizer = load_tokenizer(path, specs or _stored_specs(path), manager or PluginManager())
    elif path.suffix == ".json":
        tokenizer = load_wordpiece(path, specs or [_text_spec()])
    elif specs and specs[0].layout.kind == "sequence":
        raise ValueError(f"{source}: {specs[0].name} needs a WordPiece vocabulary in the JSON of `tokenizers`")
    else:
        tokenizer = load_published_tokenizer(path, specs[0] if specs else None, image_size=image_size)
    return tokenizer.to(device)


def is_tokenizer(source: str | Path) -> bool:
    """Whether a file, folder or Hub id is a tokenizer, of either format, rather than a model."""
    try:
        path = _find(source, None)
    except ValueError:
        return False
    if path.is_dir() or path.suffix == ".json":
        return True
    return "enc_type" in published.read_arguments(path)[0]


def published_modality(source: str | Path, plugin: str, manager: PluginManager) -> Modality:
    """An instance of an installed modality that fits a published tokenizer. Raises ValueError if there is none."""
    path = _find(source, None)
    if (path / DOCUMENT).is_file() or path.suffix == ".json":
        return manager.modality(plugin, **manager.modality_class(plugin).published_settings)
    arguments = published.read_arguments(path)[0]
    cls = manager.modality_class(plugin)
    known = {name: arguments.get(name) for name in ("image_size", "patch_size", "codebook_size")}
    known["channels"] = arguments.get("n_channels")
    fitting = {name: value for name, value in known.items() if name in cls.Settings.model_fields and value is not None}
    return manager.modality(plugin, **{**cls.published_settings, **fitting})


def _find(source: str | Path, revision: str | None) -> Path:
    """Finds a folder of ours, or the file of a published tokenizer or vocabulary."""
    path = Path(source)
    if not path.exists():
        path = exported.locate(source, revision=revision)
    if (path / DOCUMENT).is_file() or (path.is_file() and path.suffix == ".json"):
        return path
    weights = published.find(path)
    if weights is None:
        raise ValueError(f"{source} holds no tokenizer: neither {DOCUMENT} nor a published {published.WEIGHTS}")
    return weights


def _stored_specs(folder: Path) -> list[ModalitySpec]:
    document = read_document(folder)
    assert document is not None
    try:
        specs = [ModalitySpec.model_validate(raw) for raw in document["specs"]]
    except ValidationError as error:
        raise ValueError(f"{folder / DOCUMENT}: specs: {'; '.join(explain(error, ModalitySpec))}") from None
    if not specs:
        raise ValueError(f"{folder / DOCUMENT}: specs: none; say which modality it is for")
    return specs


def _text_spec() -> ModalitySpec:
    return ModalitySpec(
        name="tokens",
        layout=SequenceLayout(max_tokens=256),
        array=TextArray(),
        token_space=TokenSpace(name="tokens", size=30_000, shared=True),
        tokenizer=TokenizerRecipe(kind="wordpiece"),
        source="tokens",
        extensions=("txt",),
    )


def load_wordpiece(path: Path, specs: Sequence[ModalitySpec]) -> WordPieceTokenizer:
    """Loads the published vocabulary, with its ids."""
    tokenizer = WordPieceTokenizer(specs, vocabulary=path)
    tokenizer.fit(lambda: ())
    # Saved settings record that the vocabulary was loaded, but not its path.
    tokenizer.settings = tokenizer.settings.model_copy(update={"vocabulary": Path(path.name)})
    return tokenizer


def load_published_tokenizer(
    path: Path, spec: ModalitySpec | None = None, *, image_size: int | None = None
) -> VQVAETokenizer:
    """A published VQ-VAE or DiVAE from its safetensors file.

    `spec`: the modality that it is for, whose array and number of ids must match. Its grid may differ from that of the
    file: positions are then resized. No memory is allocated before the file's tensors are known to match its arguments.
    Raises ValueError naming the argument or tensor that does not."""
    arguments, shapes, tied = published.read_arguments(path)
    try:
        spec = spec_of(path, arguments, spec, image_size)
        cls, settings = kind_of(arguments), settings_of(path, arguments, spec)
        with torch.device("meta"):
            planned = cls([spec], **settings)
    except KeyError as error:
        raise ValueError(f"{path}: argument {error} is missing; this is no published tokenizer") from None
    except ValidationError as error:
        raise ValueError(f"{path}: not a tokenizer's arguments: {'; '.join(explain(error, cls.Settings))}") from None
    except TypeError as error:
        raise ValueError(f"{path}: not the arguments of a published tokenizer: {error!r}") from None
    state = read_state(path, arguments, planned, shapes, tied)
    tokenizer = cls([spec], **settings)
    tokenizer.adopt(state)
    tokenizer.carried = planned.carried
    return tokenizer


def save_published_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `path` (model.safetensors) and `config.json` next to it, in the published format.

    A published tokenizer keeps its arguments, and its tensors bit for bit. Raises ValueError for what the format cannot
    express: other kinds, other sizes of encoder and decoder."""
    if not isinstance(tokenizer, VQVAETokenizer):
        raise ValueError(f"{tokenizer.spec.name}: of kind {tokenizer.kind!r}; published are vqvae and divae")
    arguments = arguments_of(tokenizer) if tokenizer.carried is None else tokenizer.carried.arguments
    published.write_checkpoint(path, write_state(tokenizer), arguments)

"""The folder of an exported model: `config.json`, `model.safetensors`, `tokenizers/<token space>/…`.

In and out: `ExportedConfig`, with names, numbers and fingerprints only, and tensors by name. Nothing in a folder is
ever imported, unpickled or evaluated; names are resolved among installed plugins. The sizes in one file are checked
against the other before memory is allocated.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from safetensors.torch import save_file

from fourm_engine.files import replacing_folder
from fourm_engine.modalities import Modalities
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.tokenizers.store import save_tokenizer
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_engine.weights import opened, tensor_file
from fourm_engine.yaml_config import not_a_run, read_yaml, run_of_data
from fourm_plugins.discovery import Plugin
from fourm_plugins.explain import plain
from fourm_plugins.hub import HUB_ID, check_there
from fourm_plugins.modality import Modality
from fourm_plugins.spec import NAME_PATTERN, Layout, ModalitySpec
from fourm_plugins.tokenizer import Tokenizer

CONFIG, WEIGHTS, TOKENIZERS = "config.json", "model.safetensors", "tokenizers"
#: Of what `fourm finetune` leaves, whose folder has a config of its own.
HEAD_FORMAT = "fourm-head"
NO_MODEL = "holds a trained task, not a model; fourm predict, or fm.load_head in Python, is for it"
#: Key of the metadata of the weights.
PUBLISHED = "published"
MAX_CONFIG_BYTES = 1 << 23
MAX_MODALITIES = 1 << 10
#: Maximum size of the table of positions, which is computed and not stored with the weights.
MAX_POSITIONS = 1 << 28

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=128)]
Distribution = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Edge = Annotated[int, Field(ge=1, le=1 << 16)]  # of a grid, in tokens
#: Fields of a spec that may change between a plugin's releases without changing the meaning of tokens.
DESCRIPTIVE = frozenset({"description", "licence", "extensions", "published_name"})


Document = TypeVar("Document", bound=BaseModel)


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class SavedEntry(Strict):
    name: Name
    start: int = Field(ge=0)
    stop: int = Field(ge=0)
    layout: Layout
    patch_dim: int = Field(ge=0, le=1 << 24)
    position_grid: tuple[Edge, Edge] | None = None


class SavedModality(Strict):
    """The plugin of a modality, and the modality that it created."""

    plugin: Name
    distribution: Distribution
    version: str = Field(max_length=128)
    settings: dict[str, Any]
    spec: ModalitySpec
    #: `Modality.identity`.
    identity: dict[str, Any]

    @field_validator("settings")
    @classmethod
    def _settings_alone(cls, settings: dict[str, Any]) -> dict[str, Any]:
        if "plugin" in settings:  # names the plugin in a config; stored above
            raise ValueError("settings name a plugin")
        return settings


class ExportedConfig(Strict):
    format: Literal["fourm"] = "fourm"
    version: Literal[2] = 2
    model: ModelConfig
    vocabulary: list[SavedEntry] = Field(min_length=1, max_length=MAX_MODALITIES)
    modalities: dict[Name, SavedModality]
    tokenizers: dict[Name, Annotated[str, StringConstraints(max_length=256)]]  # token space -> fingerprint

    def build_vocabulary(self) -> Vocabulary:
        """Raises ValueError if the rows contradict the specs."""
        if sorted(entry.name for entry in self.vocabulary) != sorted(self.modalities):
            raise ValueError("vocabulary and modalities name different modalities")
        start = 0
        for e in self.vocabulary:
            spec = self.modalities[e.name].spec
            size = spec.token_space.size if spec.token_space else 0
            if (e.start, e.stop, e.layout, e.patch_dim) != (start, start + size, spec.layout, spec.patch_dim):
                raise ValueError(f"rows of {e.name!r} do not fit its spec")
            start = e.stop
        patches = {name: modality.spec.pixel_patch for name, modality in self.modalities.items()}
        return Vocabulary(
            Entry(e.name, i, e.start, e.stop, e.layout, e.patch_dim, e.position_grid, patches[e.name])
            for i, e in enumerate(self.vocabulary)
        )


def read_config(folder: Path) -> ExportedConfig:
    """Raises ValueError naming file, key and reason."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} holds no exported model: {CONFIG} is missing")
    return read_document(path, ExportedConfig, lambda config: config, refused={HEAD_FORMAT: NO_MODEL})


def read_document(
    path: Path, kind: type[Document], model: Callable[[Document], ExportedConfig], *, refused: Mapping[Any, str]
) -> Document:
    """A JSON file with the config of a `model`. `refused`: format -> reason why it cannot be read here. Raises
    ValueError naming file, key and reason."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, which no config is; it is damaged")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not a JSON object; it is damaged, take it from the original again")
        if why := refused.get(data.get("format")):
            raise ValueError(why)
        # As JSON again, since the model's section is strictly typed and JSON has no tuples.
        document = kind.model_validate_json(json.dumps(data))
        model(document).build_vocabulary()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}; it is damaged, take it from the original again") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(filter(None, [str(path), ".".join(str(part) for part in first["loc"])]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ValueError(f"{where}: {plain(first['msg'])}{more}; it is damaged, or of another version") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    config = model(document)
    positions = sum((1 + (e.layout.kind == "sequence")) * e.layout.num_tokens for e in config.vocabulary)
    if positions * config.model.width > MAX_POSITIONS:
        raise ValueError(f"{path}: {positions} positions of width {config.model.width} are beyond what is loaded")
    return document


def load_network(folder: Path, config: ExportedConfig) -> Transformer:
    """The network with the file's weights, on the CPU.

    Raises ValueError naming tensors that are missing, unknown or misshapen."""
    network = checked_network(folder, config)
    network.to_empty(device="cpu")
    network.init_buffers()
    with opened(folder / WEIGHTS) as file:
        for name, tensor in network.state_dict().items():
            file.get_slice(name).fill(tensor)
    return network.eval()


def checked_network(folder: Path, config: ExportedConfig) -> Transformer:
    """The network on the meta device, for which the file has the weights. Raises ValueError like `load_network`."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} holds no exported model: {WEIGHTS} is missing")
    with torch.device("meta"):
        network = Transformer(config.model, config.build_vocabulary())
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    with opened(path, expected):
        return network.eval()


def published_arguments(folder: Path) -> dict[str, Any] | None:
    """Arguments of the published model that an export was converted from; None for a model trained here."""
    with tensor_file(folder / WEIGHTS) as file:
        note = (file.metadata() or {}).get(PUBLISHED, "null")
    try:
        arguments = json.loads(note) if len(note) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict) and all(isinstance(arguments.get(k), list) for k in ("domains_in", "domains_out")):
        return arguments
    if note != "null":
        raise ValueError(f"{folder / WEIGHTS}: the note {PUBLISHED!r} in its metadata cannot be read; convert it again")
    return None


def described(modality: Modality[Any], plugin: Plugin) -> SavedModality:
    return SavedModality(
        plugin=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        settings=modality.settings.model_dump(mode="json"),  # defaults included, since a release may change them
        spec=modality.spec,
        identity=modality.identity(),
    )


def save(
    folder: Path,
    network: Transformer,
    modalities: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    vocabulary: Vocabulary,
    *,
    missing: Iterable[str] = (),
    origin: tuple[Path, ExportedConfig] | None = None,
    published: dict[str, Any] | None = None,
) -> None:
    """Write a model atomically: to a temporary folder next to `folder`, which is then renamed. Replaces an earlier
    export, and nothing else.

    Args:
        missing: modalities without a plugin here, carried over from `origin`, the export that the model came from.
        published: the arguments of the published model, if this is one, stored in the metadata of the weights."""
    kept = origin[1] if origin else None
    saved = {name: kept.modalities[name] for name in missing} if kept else {}
    fingerprints = dict(kept.tokenizers) if kept else {}
    for name, modality in modalities.items():
        saved[name] = described(modality, modalities.plugins[name])
    spaces = {}
    for name, tokenizer in tokenizers.items():
        space = modalities[name].spec.token_space
        assert space is not None
        spaces[space.name] = tokenizer
        fingerprints[space.name] = tokenizer.fingerprint
    config = ExportedConfig(
        model=network.config,
        vocabulary=vocabulary.to_json(),  # type: ignore[arg-type]
        modalities=dict(sorted(saved.items())),
        tokenizers=fingerprints,
    )
    config.build_vocabulary()
    if folder.is_dir():
        foreign = sorted(p.name for p in folder.iterdir() if p.name not in (CONFIG, WEIGHTS, TOKENIZERS))
        if foreign:
            raise ValueError(f"{folder} holds {foreign[0]!r}, which no exported model does; choose an empty folder")
    with replacing_folder(folder) as temporary:
        text = json.dumps(config.model_dump(mode="json"), indent=1)
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        note = {} if published is None else {PUBLISHED: json.dumps(published)}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt", **note})
        target = temporary / TOKENIZERS
        target.mkdir()
        for key, tokenizer in spaces.items():
            members = [modalities[spec.name] for spec in modalities.token_spaces[key]]
            save_tokenizer(tokenizer, target / key, manager=modalities.manager, modalities=members)
        for key in sorted(fingerprints.keys() - spaces.keys()):
            assert origin is not None
            shutil.copytree(origin[0] / TOKENIZERS / key, target / key)


def locate(path_or_id: str | Path, *, revision: str | None = None) -> Path:
    """Folder of an exported model: a folder, a run's folder (its `model/`), or a Hugging Face Hub id, of which only
    JSON and safetensors files are fetched."""
    folder = Path(path_or_id)
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG).is_file():
            return candidate
    if (folder / "head" / CONFIG).is_file():
        raise ValueError(f"{folder}: {NO_MODEL}")
    if folder.exists():
        raise ValueError(_no_model(folder))
    check_there(path_or_id)
    if not HUB_ID.fullmatch(str(path_or_id)):
        raise ValueError(f"{path_or_id}: no such folder, and no Hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id), revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the network, the Hub and its cache raise many types
        reason = textwrap.shorten(str(error), 200, placeholder=" …") if str(error).strip() else type(error).__name__
        raise ValueError(f"{path_or_id}: no such folder, and the Hub could not provide it: {reason}") from error


def is_model(path: str | Path) -> bool:
    """Whether `path` is the folder of an exported model, or of a run with one, and not of another library's network."""
    if Path(path, "model", CONFIG).is_file():
        return True
    try:
        config = json.loads(Path(path, CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("format") == "fourm"


def _no_model(folder: Path) -> str:
    """Why there is no model in a folder, and where one may be."""
    if folder.is_file():
        return not_a_run(folder)
    if (folder / "tokenizer.json").is_file():
        return f"{folder}: holds a tokenizer, not a model; name the folder of a run or an exported model"
    if (folder / "config.yaml").is_file():
        command = "finetune" if "task" in read_yaml(folder / "config.yaml") else "train"
        return f"{folder} holds no exported model yet; finish it first: fourm {command} {folder / 'config.yaml'}"
    runs = [path.parent.parent for path in sorted(folder.glob(f"*/model/{CONFIG}"))]
    remedy = f"; did you mean {' or '.join(map(str, runs[:3]))}?" if runs else run_of_data(folder)
    return f"{folder} holds no exported model: neither {CONFIG} nor model/{CONFIG} is there{remedy}"


def spec_differences(saved: ModalitySpec, current: ModalitySpec) -> list[str]:
    """`field: saved -> current` for every field that affects the meaning of tokens."""
    a, b = saved.model_dump(mode="json"), current.model_dump(mode="json")
    names = [name for name in a if name not in DESCRIPTIVE and a[name] != b[name]]
    return [f"{name}: {json.dumps(a[name])} -> {json.dumps(b[name])}" for name in names]

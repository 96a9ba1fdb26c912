"""The config of a run: one YAML file for all commands, dotted overrides, strict pydantic.

In: `config.yaml` and overrides such as `train.lr=3e-4`. Out: `RunConfig`, whose sections are defined beside the code
that they configure. A key that does not exist is named by its full path with the nearest one that does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fourm_engine import started
from fourm_engine.data.config import DataConfig
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.files import write_atomically
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.modalities import Modalities, ModalitiesConfig, load_modalities, with_data
from fourm_engine.nn.config import ModelConfig
from fourm_engine.pretrain.config import ExtendConfig, LossConfig
from fourm_engine.fit.config import TokenizersConfig
from fourm_engine.train.config import TrainConfig
from fourm_engine.vocabulary import check_token_spaces
from fourm_plugins.discovery import canonical
from fourm_plugins.explain import explain
from fourm_plugins.manager import PluginManager

log = logging.getLogger(__name__)
CONFIG = "config.yaml"  # in the folder of a run
#: A config is written by hand; anything larger is a mistake or an attack. Values are counted as often as aliases repeat
#: them, which is how often they are looked at from then on.
MAX_CONFIG_BYTES, MAX_VALUES, MAX_DEPTH = 1 << 20, 50_000, 50


class ConfigError(ValueError):
    """A config that cannot be used: file, key and remedy, a line each."""


class RunConfig(BaseModel):
    """All that a run is made of. Paths are relative to the working directory; in the config that a run stored, to where
    it was started (`fourm_engine.started`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Folder of everything that training writes: config, checkpoints, metrics, the exported model.
    run: Path
    #: Decides order, crops, masks and initial weights.
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    modalities: ModalitiesConfig = Field(default_factory=ModalitiesConfig)
    data: DataConfig
    tokenizers: TokenizersConfig
    masking: MaskingConfig
    model: ModelConfig
    loss: LossConfig = Field(default_factory=LossConfig)
    train: TrainConfig
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    #: Set in a run that extends a trained model.
    extend: ExtendConfig | None = None

    def load_modalities(self, manager: PluginManager) -> Modalities:
        """The modalities that take part: those selected, or with `select: installed` those installed that have data.

        Raises ValueError for a plugin that cannot be used, and where nothing is left."""
        modalities = load_modalities(self.modalities, manager)
        tokens = self.data.tokens / "train" if self.data.tokens is not None else None
        folders = [folder for folder in (self.data.train, tokens) if folder is not None]
        if self.modalities.select == "installed" and folders:
            modalities = with_data(modalities, folders)
        check_token_spaces(modalities.specs)
        return modalities

    def save(self, path: Path) -> None:
        """Write the resolved config, every default spelt out."""
        write_atomically(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    def store(self) -> None:
        """Save it in the run's folder, with a note of where the run was started."""
        started.record(self.run)
        self.save(self.run / CONFIG)


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, needed: Sequence[str] = ("data.train", "data.val")
) -> RunConfig:
    """Read `path`, apply `section.key=value` overrides (values are YAML), validate.

    needed: paths that must be found again in a config that a run stored; data that is not needed and is nowhere is left
    out. Raises ConfigError."""
    path = Path(path)
    raw = read_yaml(path)
    missing = started.relocate(raw, path)
    for override in overrides:
        apply_override(raw, override)
    leave_out_missing(raw, path, missing, overrides, needed)
    return parse_config(raw, str(path))


def leave_out_missing(
    raw: dict[str, Any], path: Path, missing: dict[str, list[Path]], overrides: Sequence[str], needed: Sequence[str]
) -> None:
    """What `started.relocate` did not find: raises ConfigError if it is needed and no override says where it is; other
    data is left out, with a line that says so."""
    for key, tried in missing.items():
        if any(override.startswith((f"{key}=", f"{key.partition('.')[0]}=")) for override in overrides):
            continue
        if key in needed:
            raise ConfigError(started.nowhere(path, key, tried))
        if key in ("data.train", "data.val"):
            log.warning("%s", started.nowhere(path, key, tried))
            raw["data"][key.partition(".")[2]] = None


def parse_config(raw: dict[str, Any], origin: str) -> RunConfig:
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {line}" for line in explain(error, RunConfig))) from None


def manager_of_run(run: str | Path) -> PluginManager:
    """The plugin host for a model that was trained: what its run disabled, and the providers it chose, as far as they
    are installed here. `run`: a run's folder; for anything else, a host without choices. Raises ConfigError."""
    path, host = Path(run) / CONFIG, PluginManager()
    if not path.is_file():
        return host
    try:
        chosen = ModalitiesConfig.model_validate(read_yaml(path).get("modalities") or {})
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{path}: modalities: {line}" for line in explain(error, ModalitiesConfig))
        ) from None
    names = {plugin.name for plugin in host.plugins}
    claims = {(plugin.name, canonical(plugin.distribution)) for plugin in host.plugins}
    return PluginManager(
        disabled=names & set(chosen.disable),
        providers={name: d for name, d in chosen.providers.items() if (name, canonical(d)) in claims},
    )


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no config")
    try:
        raw = _parse(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections such as `data:` and `train:`, found {type(raw).__name__}")
    return raw


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 3e-4 as a number (YAML 1.1 wants 3.0e-4) and refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if not key.tag.endswith(":merge")]
        seen = set()
        for key in keys:
            if not isinstance(key, Hashable):
                continue  # SafeLoader says what is wrong with it
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} stands twice, line {node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# A copy of the resolvers, since add_implicit_resolver would otherwise change SafeLoader for the whole process.
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse(text: str) -> Any:
    """The value that a YAML text describes. Raises YAMLError, also for one that describes far more than it holds."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        values, depth = _extent(node, {})
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise yaml.YAMLError(f"{values} values, {depth} deep; at most {MAX_VALUES} and {MAX_DEPTH} are read")
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:  # a date or number that is none
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def _extent(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(values, depth) below and with a node; one that aliases repeat counts each time, but is looked at once."""
    if id(node) in known:
        if (found := known[id(node)]) is None:
            raise yaml.YAMLError(f"the value in line {node.start_mark.line + 1} holds itself")
        return found
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    extents = [_extent(child, known) for child in children]
    found = (1 + sum(values for values, _ in extents), 1 + max((depth for _, depth in extents), default=0))
    known[id(node)] = found
    return found


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in what `read_yaml` gave. Raises ConfigError."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected section.key=value")
    *parents, leaf = key.split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is no section")
    section[leaf] = read_value(value, f"override {override!r}")


def read_value(text: str, origin: str) -> Any:
    """A value of the command line, in YAML. Raises ConfigError."""
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {' '.join(str(error).split())}") from None

"""The config of a run: one YAML file for all commands, dotted overrides, strict validation.

In: `config.yaml` and overrides such as `train.lr=3e-4`. Out: `RunConfig`, whose sections are defined beside the code
that they configure. An unknown key is an error that gives its full path and the nearest known key.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.available import with_data
from fourm_engine.data.raw.documents import documented
from fourm_engine.data.raw.pipes import open_root
from fourm_engine.data.raw.root import DataRoot
from fourm_engine.data.sets import data_sets
from fourm_engine.device import rank_and_world
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.extend.config import ExtendConfig
from fourm_engine.files import write_atomically
from fourm_engine.finetune.config import FinetuneConfig
from fourm_engine.fit.config import TokenizersConfig
from fourm_engine.masking.config import MaskingConfig
from fourm_engine.modalities import Modalities, ModalitiesConfig, load_modalities
from fourm_engine.nn.config import ModelConfig
from fourm_engine.pretrain.config import LossConfig
from fourm_engine.recipes import started
from fourm_engine.recipes.overrides import apply_overrides
from fourm_engine.storage.url import LocalFolder
from fourm_engine.train.best import NOTE as BEST
from fourm_engine.train.config import TrainConfig
from fourm_engine.vocabulary import Vocabulary, check_token_spaces
from fourm_engine.yaml_config import ConfigError, read_yaml, validated
from fourm_plugins.distributions import canonical
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.settings import flat
from fourm_plugins.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fourm_engine.data.samples import MaskedSamples

log = logging.getLogger(__name__)
CONFIG = "config.yaml"  # in a run's folder
#: Settings that may differ between machines, besides paths; sections end with a dot.
_OF_MACHINE = ("run", "data.workers", "data.cache_mb", "data.remote.", "tokenizers.fit.cache_mb")


class StoredConfig(BaseModel):
    """A config that a run stores."""

    #: Keys that hold paths, except `run`.
    paths: ClassVar[tuple[str, ...]] = started.PATHS

    #: Folder of what training writes: config, checkpoints, metrics, the exported model.
    run: LocalFolder
    #: Seed of the sample order, crops, masks and initial weights.
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    #: Observers of training, such as loggers: `installed`, or a list; `[]` for none.
    observers: Literal["installed"] | list[str] = "installed"

    def shared(self) -> dict[str, Any]:
        """The settings that must be equal in every process, by dotted key: all but paths and what suits a machine."""
        raw = self.model_dump(mode="json")
        for _, holder, name in started.paths_in(raw, self.paths):
            del holder[name]
        return {key: value for key, value in flat(raw).items() if not key.startswith(_OF_MACHINE)}

    def save(self, path: Path) -> None:
        """Write the resolved config, with all defaults spelled out."""
        write_atomically(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    def store(self) -> None:
        """Save the config in the run's folder, with a note of where the run was started."""
        started.record(self.run)
        self.save(self.run / CONFIG)

    def activate(self, manager: PluginManager, *configs: TrainConfig) -> None:
        """Activate the optimisers and schedules of `configs`, and in the first process the observers.

        Raises PluginError (a ValueError) for one that cannot be used; unusable observers that the config does not name
        are only reported."""
        for config in configs:
            manager.optimiser(config.optimiser)
            manager.schedule(config.schedule)
        if rank_and_world()[0] == 0:
            manager.activate_observers(None if self.observers == "installed" else self.observers)


class RunConfig(StoredConfig):
    """Everything that defines a run. Paths are relative to the working directory; in a config that a run stored, to
    where the run was started (`fourm_engine.recipes.started`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    modalities: ModalitiesConfig = Field(default_factory=ModalitiesConfig)
    data: DataConfig
    tokenizers: TokenizersConfig
    masking: MaskingConfig
    model: ModelConfig
    loss: LossConfig = Field(default_factory=LossConfig)
    train: TrainConfig
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    #: Only in a run that extends a trained model.
    extend: ExtendConfig | None = None
    #: Only in a run that starts from a trained model.
    finetune: FinetuneConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> RunConfig:
        if self.extend is not None and self.finetune is not None:
            raise ValueError("extend and finetune both name a model to start from; extend first, then fine-tune that")
        return self

    @model_validator(mode="after")
    def _lengths(self) -> RunConfig:
        try:
            # "all" is not a number yet; 1 token per sample gives the longest run.
            self.train.plan(1 if self.masking.open else self.masking.sample_tokens)
        except ValueError as error:
            raise ValueError(f"train: {error}") from None
        return self

    def load_modalities(self, manager: PluginManager) -> Modalities:
        """The selected modalities, or with `select: installed` the installed ones that have data. Settings read from
        documents beside the data are added to the config.

        Raises ValueError for a plugin that cannot be used, and if no modality is left."""
        modalities = load_modalities(self.modalities, manager)
        roots, given = [], self.modalities.settings
        sets = [one.config for one in data_sets(self.data, modalities)]
        folders = [*(one.folder for one in sets), self.data.val]
        folders += [one.tokens / "train" for one in sets if isinstance(one.tokens, Path)]
        if documents := documented(modalities, given, [f for f in folders if isinstance(f, Path) and f.is_dir()]):
            given.update({name: {**given.get(name, {}), **settings} for name, settings in documents.items()})
            modalities = load_modalities(self.modalities, manager)
        for one in data_sets(self.data, modalities) if self.modalities.select == "installed" else ():
            folder, tokens = one.config.folder, one.config.tokens
            roots += [(open_root(folder, one.config, manager), one.modalities)] if folder is not None else []
            roots += [(DataRoot(one.config.at(tokens / "train"), ()), one.modalities)] if tokens is not None else []
        if roots:
            modalities = with_data(modalities, *zip(*roots))
        check_token_spaces(modalities.specs)
        return modalities

    def open_samples(
        self,
        modalities: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
        manager: PluginManager,
        vocabulary: Vocabulary,
        *,
        training: bool,
    ) -> MaskedSamples:
        """The training or held-out samples of a run. Raises ValueError for data that cannot be used."""
        from fourm_engine.data.samples import MaskedSamples  # lazy: most commands draw no samples

        return MaskedSamples.from_config(
            self.data,
            self.masking,
            modalities,
            tokenizers,
            vocabulary,
            seed=self.seed,
            training=training,
            batch_size=self.train.batch_size,
            masker_class=manager.masker_class,
        )


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, needed: Sequence[str] = ("data.train", "data.val")
) -> RunConfig:
    """Read `path`, apply overrides `section.key=value` (values are YAML), and validate.

    `needed`: settings whose paths must exist in a config that a run stored; other missing data is left out. Raises
    ConfigError."""
    path = Path(path)
    raw = read_raw(path, overrides, needed=needed)
    return parse_config(raw, str(path)) if started.is_stored(path) else resolve(raw, path)


def read_raw(path: Path, overrides: Sequence[str] = (), *, needed: Sequence[str]) -> dict[str, Any]:
    """`path` with its overrides as nested values, not yet validated; see `load_config`."""
    raw = read_yaml(path)
    missing = started.relocate(raw, path)
    apply_overrides(raw, overrides)
    leave_out_missing(raw, path, missing, overrides, needed)
    for key, command in (("task", "finetune"), ("base", "sweep"), ("encoders", "suite")):
        if key in raw:
            raise ConfigError(f"{path}: a config with a section `{key}` is for `fourm {command} {path}`")
    return raw


def resolve(raw: dict[str, Any], origin: Path) -> RunConfig:
    """Validate what `read_raw` returned for `origin`. In a config that fine-tunes, settings left open are taken from
    its source, and added to `raw`. Raises ConfigError."""
    if raw.get("finetune") is not None:
        from fourm_engine.recipes.finetune import fill_in  # lazy: it imports torch

        fill_in(raw, origin)
    return parse_config(raw, str(origin))


def leave_out_missing(
    raw: dict[str, Any], path: Path, missing: dict[str, list[Path]], overrides: Sequence[str], needed: Sequence[str]
) -> None:
    """Raise ConfigError for missing data that is needed and not overridden; drop other missing data, and log it."""
    given = {override.partition("=")[0] for override in overrides}
    for key, tried in missing.items():
        above = {key.rsplit(".", levels)[0] for levels in range(key.count(".") + 1)}  # "data.train", "data" too
        if given & above:
            continue
        if above & set(needed):
            raise ConfigError(started.nowhere(path, key, tried))
        if above & {"data.train", "data.val"}:
            log.warning("%s", started.nowhere(path, key, tried))
            raw["data"][key.split(".")[1]] = None


def parse_config(raw: dict[str, Any], origin: str) -> RunConfig:
    return validated(RunConfig, raw, f"{origin}: ")


def config_beside(run: Path) -> Path:
    """The path of the config of a run's folder, or of its `best/`."""
    return (run.parent if (run / BEST).is_file() else run) / CONFIG


def manager_of_run(run: str | Path) -> PluginManager:
    """The plugin host for a trained model, with the plugins that its run disabled and those of its chosen providers
    that are installed here. `run`: a run's folder, or its `best/`; anything else gives a default host. Raises
    ConfigError."""
    path, host = config_beside(Path(run)), PluginManager()
    if not path.is_file():
        return host
    chosen = validated(ModalitiesConfig, read_yaml(path).get("modalities") or {}, f"{path}: modalities: ")
    names = {plugin.name for plugin in host.plugins}
    claims = {(plugin.name, canonical(plugin.distribution)) for plugin in host.plugins}
    return PluginManager(
        disabled=names & set(chosen.disable),
        providers={name: d for name, d in chosen.providers.items() if (name, canonical(d)) in claims},
    )

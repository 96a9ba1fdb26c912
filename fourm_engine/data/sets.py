"""The data sets of a config: the folder that `data.train` names, or each entry of its list, and the held-out one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig, TrainingSet
from fourm_engine.data.raw.names import say
from fourm_engine.data.splits import unused_lists
from fourm_engine.modalities import Modalities
from fourm_engine.storage.url import Folder
from fourm_plugins.modality import Modality


@dataclass(frozen=True)
class DataSet:
    """One data set."""

    key: str  # the setting that names it: "data.train", "data.train.0" or "data.val"
    config: DataConfig  # with this data set alone to train on
    modalities: Mapping[str, Modality]  # modalities that are taken from it
    entry: TrainingSet | None = None  # None: `data.train` is no list
    training: bool = True  # False: held out

    @property
    def name(self) -> str:
        return self.key.removeprefix("data.")

    @property
    def part(self) -> str:
        return "train" if self.training else "val"

    @property
    def folder(self) -> Folder | str | None:
        return self.config.folder if self.training else self.config.val

    @contextmanager
    def named(self) -> Iterator[None]:
        """Make errors in the block name the entry of the list that they are about."""
        try:
            yield
        except ValueError as error:
            if self.entry is None or isinstance(error, BadFile):  # which names its file
                raise
            raise ValueError(f"{self.key}: {error}") from None


def data_sets(config: DataConfig, modalities: Mapping[str, Modality]) -> list[DataSet]:
    """The data sets of `data.train`; one without a path if it is not set. Raises ValueError if an entry names a
    modality that takes no part, or a source of one that has none."""
    if not config.sets:
        return [DataSet("data.train", config, modalities)]
    sets = []
    for index, entry in enumerate(config.sets):
        chosen = modalities if entry.modalities is None else entry.modalities
        for field, named in (("modalities", chosen), ("sources", entry.sources)):
            if unknown := [name for name in named if name not in modalities]:
                there = ", ".join(modalities)
                raise ValueError(f"data.train.{index}.{field}: {unknown[0]!r} takes no part; there are {there}")
        if isinstance(modalities, Modalities):
            taken: Mapping[str, Modality] = modalities.only(chosen)
        else:
            taken = {name: modality for name, modality in modalities.items() if name in chosen}
        sets.append(DataSet(f"data.train.{index}", config.of(entry), _moved(taken, entry.sources, index), entry))
    return sets


def all_sets(config: DataConfig, modalities: Mapping[str, Modality]) -> list[DataSet]:
    """Those of `data_sets`, then that of `data.val`; those that are not set have no folder."""
    return [*data_sets(config, modalities), DataSet("data.val", config, modalities, training=False)]


def say_unused_lists(sets: Iterable[DataSet]) -> None:
    """Warn, once a process, of each `splits.json` that lies beside training data and is not used."""
    for one in sets:
        if (unused := unused_lists(one.config, one.key)) is not None:
            say("; ".join(unused))


def _moved(modalities: Mapping[str, Modality], sources: Mapping[str, str], index: int) -> Mapping[str, Modality]:
    """The modalities, reading these sources, of entry `index`. One that is not named follows one that reads the same
    files, such as pixels and tokens of a picture."""
    files = {modalities[name].spec.files: source for name, source in sources.items() if name in modalities}
    if not files:
        return modalities
    moved = []
    for name, modality in modalities.items():
        source = sources.get(name, files.get(modality.spec.files))
        moved.append(modality if source is None else _reading(modality, source, f"data.train.{index}"))
    plugins, host = (modalities.plugins, modalities.manager) if isinstance(modalities, Modalities) else ({}, None)
    return Modalities(moved, plugins, host)


def _reading(modality: Modality, source: str, key: str) -> Modality:
    """A modality that reads another sub-folder. Raises ValueError."""
    if "source" not in type(modality.settings).model_fields:
        raise ValueError(f"{key}.sources: {modality.name} has no setting `source`; give its folder the name of others")
    settings = modality.settings.model_dump(exclude_unset=True) | {"source": source}
    return type(modality)(modality.name, **settings)

"""Raw samples of several modalities, matched by name.

In: a root folder with one source per modality, or tars with all of them. Out: values and arrays by (sample, modality);
every unusable file is reported. A sample needs a file of only one modality; missing ones are reported.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fourm_engine.data.bad_files import BadFile, BadFiles
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aspect import array_aspect, check_aspect
from fourm_engine.data.raw.available import stray_data
from fourm_engine.data.raw.catalogue import open_catalogue
from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.indexed import IndexedSource
from fourm_engine.data.raw.names import say, shown
from fourm_engine.data.raw.pairing import unpaired
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.root import Root, data_root
from fourm_engine.data.raw.sample_table import SampleTable
from fourm_engine.data.splits import Split, match_split
from fourm_engine.files import is_shortage
from fourm_engine.modalities import host_of
from fourm_engine.storage.errors import StoreError
from fourm_plugins.arrays import check_array
from fourm_plugins.calls import fault
from fourm_plugins.counting import counted
from fourm_plugins.errors import SampleError, one_line
from fourm_plugins.manager import PluginError
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.view import View

#: Number of samples whose files the processes of a run compare at its start.
SOME_FILES = 4
#: Maximum length of a reason, which may quote the file.
MAX_REASON = 300


class AlignedData(SampleTable):
    """Raw samples in `root`, a folder, a pattern for tars in one (see `data_root`) or data opened by a package, or in
    its tars `shards`. If the folder has an index (see `catalogue`), it holds a few bytes per sample instead of an
    object.

    `value`, `augment`, `normalise` and `array` raise BadFile. Callers pass it to `skip`, which applies `on_error`; see
    `BadFiles`.

    Raises ValueError if no modality has any file, or the split is unknown or empty."""

    def __init__(
        self,
        root: Root | str,
        modalities: Mapping[str, Modality],
        split: str | None = None,
        *,
        on_error: Literal["skip", "raise"] = "skip",
        max_bytes: int = MAX_FILE_BYTES,
        shards: Sequence[str] | None = None,
    ) -> None:
        if shards is None and not isinstance(root, PluginRoot):
            root, shards = data_root(root)
        self.root: Root = Path(root) if isinstance(root, str) else root
        self._bad = BadFiles(on_error)
        self.split = Split("samples", None, split)
        local, where = self.root if isinstance(self.root, Path) else None, shown(self.root)
        specs = [modality.spec for modality in modalities.values()]
        if local and not local.is_dir():
            raise ValueError(f"{where}: no such folder; it should hold {_wanted(specs)}")
        there = open_catalogue(self.root, specs, shards=shards, max_bytes=max_bytes)
        self._sources = {spec.name: there.sources[spec.files] for spec in specs if spec.files in there.sources}
        notes = [*there.notes, *(stray_data(local, modalities.values()) if local else ())]
        if not self._sources:
            about = "".join(f"; {note.text}" for note in notes)
            raise ValueError(f"{where}: holds no data of any modality; looked for {_wanted(specs)}{about}")
        for note in dict.fromkeys([*notes, *(note for source in self._sources.values() for note in source.notes)]):
            say(str(note))
        present = {name: there.present[modalities[name].spec.files] for name in self._sources}
        super().__init__(there.names, modalities, present)
        if split is not None:
            self._take(self.names.among(match_split(self.root, split, self.names)))
        if any(count < len(self.names) for count in self.counts.values()):
            say(self.report())
        lines = unpaired({modalities[name].spec.source: self.having(name) for name in self._sources})
        sources = {modalities[name].spec.source: count for name, count in self.counts.items() if count}
        if lines and sum(sources.values()) == len(self.names):
            some = ", ".join(sources)
            raise ValueError(f"{where}: no sample has files of more than one of {some}: {'; '.join(lines)}")
        for line in lines:
            say(f"{where}: {line}")

    @classmethod
    def from_config(cls, modalities: Mapping[str, Modality], config: DataConfig, *, training: bool) -> AlignedData:
        """Raw data of the training or the validation samples of a config, chosen by `Split`.

        Raises ValueError if the config names no folder."""
        split = Split.from_config(config, training=training, host=host_of(modalities))
        if split.root is None:
            raise ValueError(f"data.{split.part} is not set: name the folder of its samples")
        data = cls(
            split.root,
            modalities,
            split.name,
            on_error=config.on_error,
            max_bytes=config.max_file_mb << 20,
            shards=split.shards,
        )
        data = data.keeping(split.select(data.names))
        data.split = split
        return data

    def keeping(self, names: Collection[str]) -> AlignedData:
        """The same files restricted to these samples."""
        other = copy.copy(self)
        other._take(self.names.among(names))
        return other

    def replacing(self, modality: Modality) -> AlignedData:
        """The same files with `modality`, possibly of another size, replacing the one of its name."""
        other = copy.copy(self)
        other.modalities = {**self.modalities, modality.name: modality}
        return other

    def column(self, name: str) -> dict[str, Any]:
        """{sample: value} of a column that no modality reads. Raises ValueError for data without columns."""
        return self._with_columns(name).column(name)

    def column_type(self, name: str) -> Any:
        """The type of a column's values, as `SampleSource.column_type` describes it. Raises ValueError as `column`."""
        return self._with_columns(name).column_type(name)

    def _with_columns(self, name: str) -> PluginRoot:
        if not isinstance(self.root, PluginRoot):
            raise ValueError(f"{shown(self.root)}: files have no column {name!r}; name a file of labels (task.labels)")
        return self.root

    def contents(self, modalities: Iterable[str]) -> dict[str, Any]:
        """By modality, which samples have a file, and, in a local folder, what the files of a few samples hold: enough
        to tell another copy of the data, not to verify every file. JSON-ready; equal in every process that sees the
        same data."""
        facts: dict[str, Any] = {}
        for modality in sorted(modalities):
            having = self.having(modality)
            facts[f"samples with {modality}"] = f"{len(having)} ({self._digest_of_present(modality)})"
            if isinstance(self.root, Path):
                some = having[:: -(-len(having) // SOME_FILES) or 1]
                facts[f"some files of {modality}"] = self._digest_of_files(some, modality)
        return facts

    def _digest_of_files(self, names: Iterable[str], modality: str) -> str:
        digest = hashlib.sha256()
        for name in names:
            try:
                files = sorted(self.files(name, modality).items())
            except BadFile:  # reported where it is used
                files = []
            for extension, content in files:
                digest.update(f"{extension} {len(content)} ".encode() + content)
        return digest.hexdigest()[:16]

    def report(self) -> str:
        return f"{shown(self.root)}: {super().report()}"

    def describe(self) -> str:
        """The number of samples and their split, in one line."""
        return self.split.describe(len(self.names), self.root)

    def where(self, name: str, modality: str) -> str:
        return self._sources[modality].where(name)

    def stamp(self, name: str, modality: str) -> str:
        """Sizes and times of the files of a sample; equal if they are unchanged."""
        return self._sources[modality].stamp(name)

    def ahead(self, names: Sequence[str], *, without: Collection[str], now: bool = False) -> None:
        """Copy the shards of samples in the background, if they are remote; `without` those of some modalities. now:
        they are needed next."""
        for source in {id(s): s for name, s in self._sources.items() if name not in without}.values():
            if isinstance(source, IndexedSource):
                source.ahead(names, now=now)

    def files(self, name: str, modality: str) -> dict[str, bytes]:
        """{extension: content} of a sample. Raises BadFile."""
        with _Blame(self, name, modality, "read"):
            return self._sources[modality].files(name)

    def value(self, name: str, modality: str, files: Mapping[str, bytes] | None = None) -> Any:
        """The value as read, neither cropped nor resized, from `files` if they were read already. Raises BadFile."""
        files = self.files(name, modality) if files is None else files
        with _Blame(self, name, modality, "read"), reading(lambda: self.where(name, modality)):
            return self._value(name, modality, "read", self.modalities[modality].read(files))

    def alternatives(self, name: str, modality: str) -> int:
        """Number of alternatives among which views of a sample choose, such as captions. Raises BadFile."""
        if not self.modalities[modality].uses_variant:
            return 1
        value = self.value(name, modality)
        with _Blame(self, name, modality, "alternatives"):
            return self.modalities[modality].alternatives(value)

    def augment(self, name: str, modality: str, value: Any, view: View) -> Any:
        """A value as read, through a view, at the modality's size. Raises BadFile, also if the value's shape differs
        from that of the picture that the view was drawn for: the crop would show something else."""
        with _Blame(self, name, modality, "augment"):
            try:
                check_aspect(self.modalities[modality], value, view)
            except SampleError as error:
                raise SampleError(f"{error} {self._agreeing(name, modality, view)}") from None
            return self._value(name, modality, "augment", self.modalities[modality].augment(value, view))

    def _agreeing(self, name: str, modality: str, view: View) -> str:
        """For a message: whose picture the view was drawn for, if known."""
        spec, agree = self.modalities[modality].spec, {}
        for other in sorted(self.has(name)):
            its = self.modalities[other].spec
            if its.source == spec.source or its.alignment != spec.alignment:
                continue
            try:
                check_aspect(self.modalities[other], value := self.value(name, other), view)
            except (BadFile, SampleError):
                continue
            if self.modalities[other].aspect(value) is not None:
                agree[its.source] = self.where(name, other)
        if len(agree) == 1:
            source, where = agree.popitem()
            return f"as {source} has it, {where}: one of the two is wrong"
        return f"as {' and '.join(agree)} have it" if agree else "as it is recorded"

    def normalise(self, name: str, modality: str, augmented: Any) -> np.ndarray | str:
        """The array of an augmented value, checked against the spec. Raises BadFile."""
        with _Blame(self, name, modality, "normalise"):
            array = self.modalities[modality].normalise(augmented)
            check_array(self.modalities[modality].spec, array)
            return array

    def array(self, name: str, modality: str, view: View) -> np.ndarray | str:
        """The input of the tokenizer or, if continuous, of the model. Raises BadFile."""
        return self.normalise(name, modality, self.augment(name, modality, self.value(name, modality), view))

    def check_usable(self, modalities: Iterable[str]) -> None:
        """Raise ValueError if a modality has files here but none of them is usable. Reads up to the first usable one,
        and skips the others."""
        for modality in modalities:
            shape, last = array_aspect(self.modalities[modality].spec) or 1.0, None
            for name in self.having(modality):
                try:
                    value = self.value(name, modality)
                    aspect = self.modalities[modality].aspect(value)
                    view = View.centre(source_aspect=aspect or shape, target_aspect=shape)
                    self.normalise(name, modality, self.augment(name, modality, value, view))
                    break
                except BadFile as bad:
                    self.skip(name, last := bad)
            else:
                if last is not None:
                    raise ValueError(
                        f"{shown(self.root)}: none of the {counted(self.counts[modality], 'file')} of {modality} can "
                        f"be used, such as {last.where}: {last.reason}; fix them, or leave {modality} out of "
                        "modalities.select"
                    )

    def _value(self, name: str, modality: str, hook: str, value: Any) -> Any:
        if value is None:  # a forgotten `return`
            raise fault(self.modalities[modality], hook, "None, not a value", self.where(name, modality))
        return value

    def skip(self, name: str, bad: BadFile) -> bool:
        """Apply `on_error` to a file of sample `name`: raise it, or log and count it. Returns whether it was logged."""
        return self._bad.add(name, bad)

    @property
    def errors(self) -> dict[str, int]:
        """Modality -> number of files skipped so far by this process."""
        return self._bad.counts


class _Blame:
    """Adds the file's name to errors that a plugin's `hook` raises in the block: BadFile for SampleError, and
    PluginError, which is never skipped, for any other error, a fault of the plugin. A class for speed, since it is
    entered several times per file."""

    __slots__ = "data", "hook", "modality", "name"

    def __init__(self, data: AlignedData, name: str, modality: str, hook: str) -> None:
        self.data, self.name, self.modality, self.hook = data, name, modality, hook

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, SampleError):
            reason = one_line(error)
            reason = reason if len(reason) <= MAX_REASON else reason[:MAX_REASON] + "…"
            raise BadFile(self.data.where(self.name, self.modality), self.modality, reason) from error
        if is_shortage(error):
            return
        if isinstance(error, Exception) and not isinstance(error, (StoreError, PluginError)):  # which name what is read
            where = self.data.where(self.name, self.modality)
            raise fault(self.data.modalities[self.modality], self.hook, error, where) from error


def _wanted(specs: Iterable[ModalitySpec]) -> str:
    """Which files are looked for, and where."""
    kinds = []
    for source, extensions in sorted({spec.files for spec in specs}):
        where = "the folder itself" if source == "." else f"{source}/"
        kinds.append(", ".join("." + extension for extension in extensions) + f" files in {where}")
    return "; ".join(kinds)

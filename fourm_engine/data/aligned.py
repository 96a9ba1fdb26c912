"""Raw samples of several modalities, matched by name.

In: a root folder with one source a modality. Out: values and arrays by (sample, modality), with every unusable file
reported. A sample needs a file of one modality only; which modalities it lacks is reported.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fourm_engine.data.aspect import array_aspect, check_aspect
from fourm_engine.data.bad_files import BadFile, BadFiles
from fourm_engine.data.config import DataConfig
from fourm_engine.data.names import say, shown
from fourm_engine.data.pairing import unpaired
from fourm_engine.data.present import beside
from fourm_engine.data.source import MAX_FILE_BYTES, open_sources
from fourm_engine.data.splits import Split, match_split
from fourm_plugins.arrays import check_array
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading
from fourm_plugins.view import View

MAX_SHOWN_NAMES = 3
#: Of a reason, which may quote the file.
MAX_REASON = 300


class AlignedData:
    """Raw samples in `root`.

    `value`, `augment`, `normalise` and `array` raise BadFile. Callers hand it to `skip`, which applies `on_error`; see
    `BadFiles`.

    Raises ValueError where no modality has any file, or the split is unknown or empty."""

    def __init__(
        self,
        root: Path,
        modalities: Mapping[str, Modality],
        split: str | None = None,
        *,
        on_error: Literal["skip", "raise"] = "skip",
        max_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.root, self.modalities = Path(root), dict(modalities)
        self._bad = BadFiles(on_error)
        self.split = Split("samples", self.root, split)
        if not self.root.is_dir():
            raise ValueError(f"{shown(self.root)}: no such folder; it should hold {self._wanted()}")
        aside = beside(self.root, self.modalities.values())
        self._sources = open_sources(self.root, (m.spec for m in self.modalities.values()), max_bytes=max_bytes)
        if not self._sources:
            about = "".join(f"; {line}" for line in aside)
            raise ValueError(f"{shown(self.root)}: holds no data of any modality; looked for {self._wanted()}{about}")
        for line in (f"{shown(self.root)}: {line}" for line in aside):
            say(line)
        for line in dict.fromkeys(note for source in self._sources.values() for note in source.notes):
            say(line)
        self._members = {name: frozenset(source.names) for name, source in self._sources.items()}
        self._all = self._members  # in whatever split
        names = frozenset().union(*self._members.values())
        if split is not None:
            names = match_split(self.root, split, names)
            self._members = {name: members & names for name, members in self._members.items()}
        self.names = sorted(names)
        if len(set(self._members.values())) > 1 or len(self._members) < len(self.modalities):
            say(self.report())
        lines = self.unpaired()
        sources = {self.modalities[name].spec.source: members for name, members in self._members.items() if members}
        if lines and sum(map(len, sources.values())) == len(self.names):
            raise ValueError(
                f"{shown(self.root)}: no sample has files of more than one of {', '.join(sources)}: {'; '.join(lines)}"
            )
        for line in lines:
            say(f"{shown(self.root)}: {line}")

    @classmethod
    def from_config(cls, modalities: Mapping[str, Modality], config: DataConfig, *, training: bool) -> AlignedData:
        """Raw data of the training or the validation samples of a config, as `Split` says which these are.

        Raises ValueError where the config names no folder."""
        split = Split.from_config(config, training=training)
        if split.root is None:
            raise ValueError(f"data.{split.part} is not set: name the folder of its samples")
        data = cls(split.root, modalities, split.name, on_error=config.on_error, max_bytes=config.max_file_mb << 20)
        data = data.keeping(split.select(data.names))
        data.split = split
        return data

    def keeping(self, names: Collection[str]) -> AlignedData:
        """The same files of these samples alone."""
        other, kept = copy.copy(self), frozenset(names)
        other._members = {name: members & kept for name, members in self._members.items()}
        other.names = [name for name in self.names if name in kept]
        return other

    def replacing(self, modality: Modality) -> AlignedData:
        """The same files with `modality`, which may have another size, in place of the one of its name."""
        other = copy.copy(self)
        other.modalities = {**self.modalities, modality.name: modality}
        return other

    def _wanted(self) -> str:
        specs = sorted({(m.spec.source, m.spec.extensions) for m in self.modalities.values()})
        return "; ".join(f"{source}/ with {', '.join('.' + e for e in extensions)}" for source, extensions in specs)

    def describe(self) -> str:
        """How many samples of which split, in one line."""
        return self.split.describe(len(self.names), self.root)

    @property
    def counts(self) -> dict[str, int]:
        """Modality -> samples that have it."""
        return {name: len(self._members.get(name, ())) for name in self.modalities}

    def report(self) -> str:
        """Samples of each modality, and the first names that each lacks, in one line."""
        parts = []
        for name, count in self.counts.items():
            part = f"{name} {count}"
            if lacking := len(self.names) - count:
                members = self._members.get(name, frozenset())
                some = [shown(name) for name in islice((n for n in self.names if n not in members), MAX_SHOWN_NAMES)]
                part += f" (lacks {lacking}: {', '.join(some)}{', …' if lacking > len(some) else ''})"
            parts.append(part)
        return f"{shown(self.root)}: {len(self.names)} samples; " + ", ".join(parts)

    def unpaired(self) -> list[str]:
        """Why names of two modalities are not the same, where it looks like a mistake, a line for each pair."""
        return unpaired({self.modalities[name].spec.source: members for name, members in self._members.items()})

    def has(self, name: str) -> set[str]:
        """Modalities that have a file for the sample."""
        return {modality for modality, members in self._members.items() if name in members}

    def having(self, modality: str) -> frozenset[str]:
        """The samples that have a file for the modality."""
        return self._members.get(modality, frozenset())

    def anywhere(self, modality: str) -> bool:
        """Whether there is any file for a modality, in whatever split."""
        return bool(self._all.get(modality))

    def exists(self, name: str, modality: str) -> bool:
        """Whether there is a file for the modality of a sample, in whatever split."""
        return name in self._all.get(modality, ())

    def where(self, name: str, modality: str) -> str:
        return self._sources[modality].where(name)

    def stamp(self, name: str, modality: str) -> str:
        """Sizes and times of the files of a sample; equal where they are unchanged."""
        return self._sources[modality].stamp(name)

    def files(self, name: str, modality: str) -> dict[str, bytes]:
        """{extension: content} of a sample. Raises BadFile."""
        with self._blame(name, modality):
            return self._sources[modality].files(name)

    def value(self, name: str, modality: str, files: Mapping[str, bytes] | None = None) -> Any:
        """The value as read, neither cropped nor resized, of `files` where they are read already. Raises BadFile."""
        files = self.files(name, modality) if files is None else files
        with self._blame(name, modality), reading(lambda: self.where(name, modality)):
            return self.modalities[modality].read(files)

    def augment(self, name: str, modality: str, value: Any, view: View) -> Any:
        """A value as read, through a view, at the modality's size. Raises BadFile, also where the value's shape is
        not that of the picture the view was drawn for: the crop would show something else."""
        with self._blame(name, modality):
            try:
                check_aspect(self.modalities[modality], value, view)
            except SampleError as error:
                raise SampleError(f"{error} {self._agreeing(name, modality, view)}") from None
            return self.modalities[modality].augment(value, view)

    def _agreeing(self, name: str, modality: str, view: View) -> str:
        """For a message: whose picture the view was drawn for, as far as it is here."""
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
        with self._blame(name, modality):
            array = self.modalities[modality].normalise(augmented)
            check_array(self.modalities[modality].spec, array)
            return array

    def array(self, name: str, modality: str, view: View) -> np.ndarray | str:
        """What the tokenizer, or a continuous input of the model, takes. Raises BadFile."""
        return self.normalise(name, modality, self.augment(name, modality, self.value(name, modality), view))

    def check_usable(self, modalities: Iterable[str]) -> None:
        """Raise ValueError where a modality has files here and not one of them can be used. Reads up to the first that
        can, and skips the others."""
        for modality in modalities:
            shape, last = array_aspect(self.modalities[modality].spec) or 1.0, None
            for name in (name for name in self.names if modality in self.has(name)):
                try:
                    value = self.value(name, modality)
                    view = View.centre(
                        source_aspect=self.modalities[modality].aspect(value) or shape, target_aspect=shape
                    )
                    self.normalise(name, modality, self.augment(name, modality, value, view))
                    break
                except BadFile as bad:
                    self.skip(name, last := bad)
            else:
                if last is not None:
                    raise ValueError(
                        f"{shown(self.root)}: none of the {self.counts[modality]} files of {modality} can be used, "
                        f"such as {last.where}: {last.reason}; fix them, or leave {modality} out of modalities.select"
                    )

    @contextmanager
    def _blame(self, name: str, modality: str) -> Iterator[None]:
        """Name the file in what a plugin raises: BadFile for SampleError, and RuntimeError, which is never skipped, for
        anything else, a fault of the plugin."""
        try:
            yield
        except SampleError as error:
            reason = " ".join(str(error).split())
            reason = reason if len(reason) <= MAX_REASON else reason[:MAX_REASON] + "…"
            raise BadFile(self.where(name, modality), modality, reason) from error
        except Exception as error:
            raise RuntimeError(f"{self.where(name, modality)}: plugin of {modality} failed: {error!r}") from error

    def skip(self, name: str, bad: BadFile) -> None:
        """Apply `on_error` to a file of sample `name`: raise it, or log and count it."""
        self._bad.add(name, bad)

    @property
    def errors(self) -> dict[str, int]:
        """Modality -> files skipped so far by this process."""
        return self._bad.counts

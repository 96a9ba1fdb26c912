"""Raw samples of several modalities, matched by name.

In: a root folder with one source a modality. Out: values and arrays by (sample, modality), with every unusable file
reported. Samples are the union over the modalities; what one lacks is left out of it, and counted.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fourm_engine.data.config import DataConfig
from fourm_engine.data.names import is_archive, is_litter, say, shown, split
from fourm_engine.data.pairing import difference, unpaired
from fourm_engine.data.source import MAX_FILE_BYTES, Source, open_source
from fourm_engine.data.splits import SPLITS, Split, read_split, samples_of
from fourm_plugins.modality import Modality, SampleError
from fourm_plugins.notes import reading
from fourm_plugins.spec import ClassMap, FeatureMap, ModalitySpec
from fourm_plugins.view import View

log = logging.getLogger(__name__)
#: Warnings of unusable files before they are only counted.
MAX_WARNINGS = 20
MAX_SHOWN_NAMES = 3
#: Of a reason, which may quote the file.
MAX_REASON = 300
#: Relative difference in width / height below which two pictures may be the same one at two resolutions.
ASPECT_TOLERANCE = 0.03


class BadFile(ValueError):
    """A file that cannot be used: where it is, which modality wanted it, and why not."""

    def __init__(self, where: str, modality: str, reason: str) -> None:
        super().__init__(f"{where}: {modality}: {reason}")
        self.where, self.modality, self.reason = where, modality, reason

    def __reduce__(self) -> tuple:  # worker processes hand it to their parent
        return type(self), (self.where, self.modality, self.reason)


class AlignedData:
    """Raw samples in `root`.

    `value`, `augment`, `normalise` and `array` raise BadFile. Callers hand it to `skip`, which applies `on_error`:
    "raise" raises it again; "skip" logs it (once a file, the first MAX_WARNINGS of a process) and counts it in
    `errors`, and the caller goes on without that modality of that sample.

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
        self.root, self.modalities, self.on_error = Path(root), dict(modalities), on_error
        self.split = Split("samples", self.root, split)
        if not self.root.is_dir():
            raise ValueError(f"{shown(self.root)}: no such folder; it should hold {self._wanted()}")
        aside = beside(self.root, self.modalities.values())
        opened: dict[tuple[str, tuple[str, ...]], Source | None] = {}
        self._sources: dict[str, Source] = {}
        for name, modality in self.modalities.items():
            key = (modality.spec.source, modality.spec.extensions)
            if key not in opened:
                opened[key] = open_source(self.root, *key, max_bytes=max_bytes)
            if (source := opened[key]) is not None:
                self._sources[name] = source
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
            names = self._split(split, names)
            self._members = {name: members & names for name, members in self._members.items()}
        self.names = sorted(names)
        self._bad: dict[tuple[str, str], BadFile] = {}
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

    def _split(self, split_name: str, names: frozenset[str]) -> frozenset[str]:
        path = self.root / SPLITS
        listed = read_split(path, split_name)
        found = samples_of(listed, names)
        if files := sorted(name for name, sample in found.items() if name != sample):
            say(
                f"{shown(path)}: split {split_name} lists files rather than samples: {len(files)}, such as "
                f"{shown(files[0])}, read as {shown(found[files[0]])}"
            )
        chosen, missing, hint = frozenset(found.values()), sorted(listed - found.keys()), ""
        if missing and (close := difference(missing, names - chosen)) is not None:
            number, what, name, sample = close
            hint = f"; some differ in {what} alone ({number}), such as {shown(name)} from {shown(sample)}"
        if not chosen:
            raise ValueError(
                f"{shown(path)}: none of the {len(listed)} samples of split {split_name!r} is in "
                f"{shown(self.root)}{hint}"
            )
        if missing:
            say(
                f"{shown(path)}: {len(missing)} samples of split {split_name} have no file, such as "
                f"{shown(missing[0])}{hint}"
            )
        return chosen

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
        """Sizes and times of its files; they differ where the files may have changed."""
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
        """A value as read, through a view, at the modality's own size. Raises BadFile, also where the value's shape is
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
            spec, last = self.modalities[modality].spec, None
            shape = spec.array.width / spec.array.height if isinstance(spec.array, (FeatureMap, ClassMap)) else 1.0
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
                        f"such as {last.where}: {last.reason}; mend them, or leave {modality} out of modalities.select"
                    )

    @contextmanager
    def _blame(self, name: str, modality: str) -> Iterator[None]:
        """Name the file in what a plugin raises. Anything but SampleError is the plugin's own fault, and never
        skipped."""
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
        if self.on_error == "raise":
            raise bad
        if (name, bad.modality) in self._bad:
            return
        self._bad[name, bad.modality] = bad
        if len(self._bad) <= MAX_WARNINGS:
            log.warning("skipped %s", bad)
        if len(self._bad) == MAX_WARNINGS:
            log.warning("further skipped files are only counted")

    @property
    def errors(self) -> dict[str, int]:
        """Modality -> files skipped so far by this process."""
        counts: dict[str, int] = {}
        for _, modality in self._bad:
            counts[modality] = counts.get(modality, 0) + 1
        return counts


def beside(root: Path, modalities: Iterable[Modality]) -> list[str]:
    """Lines on what lies in `root` itself, beside the folders of the modalities, though it looks like their data: all
    modalities in one archive, or in one folder."""
    specs = [modality.spec for modality in modalities]
    extensions, sources = (
        sorted({e for spec in specs for e in spec.extensions}),
        sorted({spec.source for spec in specs}),
    )
    with os.scandir(root) as entries:
        found = [entry.name for entry in entries if not is_litter(entry.name)]
    archives = sorted(name for name in found if is_archive(name) or name.lower().endswith(".tar"))
    files = sorted(name for name in found if split(name, extensions) is not None and name != "splits.json")
    folders = ", ".join(f"{source}/" for source in sources)
    lines = []
    if archives:
        lines.append(
            f"left out archives in the folder itself: {len(archives)}, such as {shown(archives[0])}; data lies in a "
            f"folder for each modality ({folders}), as files or in plain .tar shards that hold this modality alone"
        )
    if files:
        lines.append(
            f"left out files in the folder itself: {len(files)}, such as {shown(files[0])}; move them into the "
            f"folder of their modality ({folders})"
        )
    for source in sources:
        alike = [n for n in found if n not in sources and n.casefold().rstrip("s") == source.casefold().rstrip("s")]
        if source not in found and alike:
            lines.append(f"the folder {shown(min(alike))} is not read; {source} is looked for")
    return lines


def same_aspect(first: float, second: float) -> bool:
    """Whether two pictures of these widths / heights may be one at two resolutions."""
    return abs(first - second) <= ASPECT_TOLERANCE * second


def check_aspect(modality: Modality, value: Any, view: View) -> None:
    """Raise SampleError where width / height of `value` is not that of the picture for which `view` was drawn, which
    follows from the view: its pixels have the aspect of the modality's array. A photograph that EXIF turns, beside a
    depth map that nothing turns, is such a pair."""
    array, own = modality.spec.array, modality.aspect(value)
    if own is None or modality.spec.alignment is None or not isinstance(array, (FeatureMap, ClassMap)):
        return
    drawn_for = array.width / array.height * view.height / view.width
    if not same_aspect(own, drawn_for):
        raise SampleError(
            f"width / height is {own:.3f}, but {drawn_for:.3f} in the picture that it belongs to; store them alike "
            f"(turned by EXIF? cropped?)"
        )


def check_array(spec: ModalitySpec, array: Any) -> None:
    """Raise SampleError where an array is not what its spec says: kind, shape, dtype, finite, class ids in range.

    A plugin that lets such a value through would otherwise train the model on it, unseen."""
    expected = spec.array
    if expected.kind == "text":
        if not isinstance(array, str):
            raise SampleError(f"expected a text, found {type(array).__name__}")
        if len(array) > expected.max_characters:
            raise SampleError(f"{len(array)} characters, more than max_characters={expected.max_characters}")
        if half := re.search("[\ud800-\udfff]", array):  # of a name or JSON that is not UTF-8; no tokenizer takes it
            raise SampleError(f"the text holds half a character, U+{ord(half.group()):04X}; save it as UTF-8")
        return
    if expected.kind == "feature_map":
        shape: tuple[int, ...] = (expected.channels, expected.height, expected.width)
    else:
        shape = (expected.height, expected.width) if expected.kind == "class_map" else (expected.size,)
    dtype = np.int64 if expected.kind == "class_map" else np.float32
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise SampleError(f"expected {np.dtype(dtype).name} {shape}, found {given}")
    if expected.kind == "class_map":
        low, high = int(array.min()), int(array.max())
        if low < -1 or high >= expected.classes:
            raise SampleError(f"class ids {low} to {high}, outside -1 to {expected.classes - 1}")
    elif expected.gaps:
        if np.isinf(array).any() or np.isnan(array).all():
            raise SampleError("holds infinite values, or nothing but NaN")
    elif not np.isfinite(array).all():
        raise SampleError(f"{int((~np.isfinite(array)).sum())} values are NaN or infinite")

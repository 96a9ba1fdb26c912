"""Data opened by a package's source, such as `table:data/photos?setting=value` (entry points `fourm.sources.v1`).

In: `NAME:LOCATION?key=value&…` and the plugin host. Out: sample names, the modalities of each, and a `Source` per
modality. All are validated: a package's results are trusted no more than files. Errors name the location and the
package.
"""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np

from fourm_engine.data.names_table import Names, NameTable
from fourm_engine.data.raw.names import plain, shown
from fourm_engine.data.raw.notes import Note
from fourm_engine.data.raw.sample_shards import Claim, Key
from fourm_engine.data.raw.source import Source
from fourm_engine.storage.url import scheme_of
from fourm_plugins.errors import SampleError, one_line
from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.source import SampleSource
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.suggest import did_you_mean

_SECRET = re.compile(r"//[^/@]*@")
MAX_NAME = 1000
T = TypeVar("T")


class PluginRoot:
    """The location `text`, not yet opened. Picklable.

    Raises PluginError (a ValueError) if no usable source of that name is installed, and ValueError for settings that it
    does not accept."""

    def __init__(self, text: str, host: PluginManager) -> None:
        scheme = scheme_of(text)
        assert scheme is not None
        self.text = text
        try:
            self._plugin, self._open = host.find("source", scheme), host.source(scheme)
        except PluginError as error:
            folder = f" (the folder of that name is written ./{text})" if Path(text).exists() else ""
            raise PluginError(f"{shown(text)}: {error}{folder}") from None
        self.location, _, query = text[len(scheme) + 1 :].partition("?")
        if _SECRET.search(self.location):
            raise ValueError(
                f"{scheme}:{_SECRET.sub('//…@', self.location)}: a user or password here would be in logs and stored "
                f"configs; give it as the package says, such as by the environment"
            )
        self.settings = self._parse(query)

    def _parse(self, query: str) -> dict[str, str]:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        except ValueError:
            raise ValueError(f"{shown(self)}: settings are written ?key=value&key=value, not ?{query}") from None
        settings = dict(pairs)
        if len(settings) < len(pairs):
            twice = next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)
            raise ValueError(f"{shown(self)}: the setting {twice!r} is given twice")
        parameters = list(inspect.signature(self._open).parameters.values())[2:]
        known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        unknown = [key for key in settings if key not in known]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            near = did_you_mean(unknown[0], known)
            raise ValueError(f"{shown(self)}: {self.origin} has no setting {unknown[0]!r}; {near}")
        return settings

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PluginRoot) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        """Equal for all spellings of the same location and settings."""
        location = os.path.realpath(self.location) if os.path.exists(self.location) else self.location
        return self._plugin.name, location, tuple(sorted(self.settings.items()))

    @property
    def origin(self) -> str:
        return f"source {self._plugin.name!r} of {self._plugin.distribution} {self._plugin.version}"

    def open(self, specs: Sequence[ModalitySpec]) -> SampleSource:
        """Open the source. Raises PluginError (a ValueError), also for problems that the user can fix."""
        with self.blame("opening it"):
            try:
                opened = self._open(self.location, list(specs), **self.settings)
            except (ValueError, OSError) as error:
                raise PluginError(f"{shown(self)}: {one_line(error)} ({self.origin})") from error
        if not isinstance(opened, SampleSource):
            raise self.fault(f"opens it as {_kind(opened)}, not as a fourm_plugins.SampleSource")
        return opened

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """{split: names}; empty if the source has no splits."""
        opened = self.open([])
        with self.blame("its splits"):
            given = opened.splits
            return {str(split): [plain(name) for name in names] for split, names in given.items()}

    def split(self, name: str) -> frozenset[str]:
        """The part of the data in a split. Raises ValueError if there is no such split."""
        if name not in self.splits:
            has = f"it has {', '.join(map(shown, self.splits))}" if self.splits else "it has none"
            raise ValueError(f"{shown(self)}: no split {name!r}; {has} ({self.origin})")
        return frozenset(self.splits[name])

    def column(self, name: str) -> dict[str, Any]:
        """{sample: value} of a column, see `SampleSource.column`. Raises PluginError (a ValueError)."""
        opened = self.open([])
        with self.blame(f"its column {name}"):
            values = opened.column(name)
        if not isinstance(values, Mapping):
            raise self.fault(f"gives {_kind(values)} as its column {name}, not {{sample: value}}")
        return {plain(str(sample)): value for sample, value in values.items()}

    def column_type(self, name: str) -> Any:
        """The type of a column's values, see `SampleSource.column_type`. Raises PluginError (a ValueError)."""
        opened = self.open([])
        with self.blame(f"its column {name}"):
            return opened.column_type(name)

    def fault(self, what: str) -> PluginError:
        return PluginError(f"{shown(self)}: {self.origin} {what}")

    @contextmanager
    def blame(self, doing: str) -> Iterator[None]:
        """Convert errors of the block to PluginError, except SampleError. ValueError and OSError are the user's to fix;
        any other error is a bug of the package."""
        try:
            yield
        except (SampleError, PluginError):
            raise
        except (ValueError, OSError) as error:
            raise PluginError(f"{shown(self)}: {one_line(error)} ({self.origin}, {doing})") from error
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{doing}; {at.filename}:{at.lineno}"
            raise self.fault(f"failed with {type(error).__name__}: {one_line(error)} ({where})") from error


class _Opened:
    """The `SampleSource` of this process; another process opens a new one."""

    def __init__(self, root: PluginRoot, specs: Sequence[ModalitySpec]) -> None:
        self.root, self.specs = root, list(specs)
        # A source opened by the parent stays referenced after a fork: closing it here could break it there.
        self._sources: dict[int, SampleSource] = {}

    @property
    def source(self) -> SampleSource:
        if os.getpid() not in self._sources:
            self._sources[os.getpid()] = self.root.open(self.specs)
        return self._sources[os.getpid()]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sources": {}}


class PluginSource(Source):
    """The files of one modality, as returned by the package."""

    def __init__(
        self,
        opened: _Opened,
        modality: str,
        extensions: Sequence[str],
        names: Names,
        given: Mapping[str, str],
        max_bytes: int,
    ) -> None:
        self._opened, self._modality, self._extensions, self._max_bytes = opened, modality, extensions, max_bytes
        self.names, self.notes = names, list[Note]()
        #: Name -> the package's name for the sample, where they differ.
        self._given = given

    def extensions_of(self, name: str) -> list[str]:
        return sorted(self.files(name))

    def files(self, name: str) -> dict[str, bytes]:
        given = self._ask(name, lambda source, name: source.files(name, self._modality))
        fault = self._opened.root.fault
        what = f"{shown(name)} ({self._modality})"
        if not isinstance(given, Mapping) or not given:
            raise fault(f"has {what}, but gives {'no file' if given == {} else _kind(given)}, not {{extension: bytes}}")
        for extension, content in given.items():
            if extension not in self._extensions or not isinstance(content, bytes):
                wanted = ", ".join(self._extensions)
                raise fault(f"gives {extension!r:.40}: {_kind(content)} for {what}, not bytes of {wanted}")
            if len(content) > self._max_bytes:
                raise SampleError(f"{len(content)} bytes, more than the {self._max_bytes} allowed (data.max_file_mb)")
        return dict(given)

    def where(self, name: str) -> str:
        below = self._ask(name, lambda source, name: source.where(name, self._modality))
        return f"{self._opened.root.text.partition('?')[0]}:{shown(below)}"

    def stamp(self, name: str) -> str:
        stamp = self._ask(name, lambda source, name: source.stamp(name, self._modality))
        if not isinstance(stamp, str):
            raise self._opened.root.fault(f"gives {_kind(stamp)} as the stamp of {shown(name)}, not a str")
        return stamp

    def _ask(self, name: str, ask: Callable[[SampleSource, str], T]) -> T:
        with self._opened.root.blame(f"{shown(name)} ({self._modality})"):
            return ask(self._opened.source, self._given.get(name, name))


def open_plugin_root(
    root: PluginRoot, claims: Sequence[Claim], specs: Iterable[ModalitySpec], max_bytes: int
) -> tuple[NameTable, dict[Key, PluginSource], dict[Key, np.ndarray], list[Note]]:
    """The samples; for each claim with any files, its source and which samples have one; notes.

    Raises ValueError if the location cannot be opened, and PluginError for a source that violates its contract."""
    opened = _Opened(root, list(specs))
    with root.blame("its names"):
        listed = list(opened.source.names)
    table, order, given = _names(root, listed)
    sources, present = dict[Key, PluginSource](), dict[Key, np.ndarray]()
    for claim in claims:
        for modality in claim.modalities:
            with root.blame(f"which samples have {modality}"):
                column = np.asarray(opened.source.present(modality))
            if column.shape != (len(listed),) or column.dtype != bool:
                by = f"by {column.dtype} {column.shape}, not by a bool for each"
                raise root.fault(f"says which of its {len(listed)} samples have {modality} {by}")
            if column.any():
                present[claim.key] = column[order]
                names = Names(table, np.flatnonzero(present[claim.key]))
                sources[claim.key] = PluginSource(opened, modality, claim.extensions, names, given, max_bytes)
                break
    with root.blame("its notes"):
        notes = [Note("plugin", shown(root), plain(note)) for note in opened.source.notes]
    return table, sources, present, notes


def _names(root: PluginRoot, listed: list[Any]) -> tuple[NameTable, np.ndarray, dict[str, str]]:
    """The names, sorted; the index of each in `listed`, int64; and {name: name in `listed`} where these differ because
    it cannot be printed. Raises PluginError."""
    if wrong := [name for name in listed if not isinstance(name, str)]:
        raise root.fault(f"has a sample called {wrong[0]!r:.80}, a {type(wrong[0]).__name__}, not a str")
    given = {new: name for name in listed if (new := plain(name)) != name}
    names = list(map(plain, listed)) if given else listed
    for name in names:
        if not name or len(name) > MAX_NAME or name.startswith("/") or ".." in name.split("/"):
            raise root.fault(f"has a sample {shown(name)!r}: no path below a folder, of up to {MAX_NAME} letters")
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    for one, other in zip(order[:-1].tolist(), order[1:].tolist()):
        if names[one] == names[other]:
            raise root.fault(f"names the sample {shown(names[one])!r} twice")
    return NameTable.build(names[row] for row in order.tolist()), order, given


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"

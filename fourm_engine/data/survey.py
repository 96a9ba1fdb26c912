"""What lies in a folder: which modality each of its sub-folders holds, and how the samples pair up.

In: a folder, and the plugin host. Out: a `Survey`. Every installed plugin is asked about some files of each sub-folder
(`Modality.recognise`); of what is large a seeded part is looked at. Nothing is written.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fourm_engine.data.folder import MAX_FILE_BYTES
from fourm_engine.data.names import is_archive, is_litter, shown, split
from fourm_engine.data.pairing import unpaired
from fourm_engine.data.source import Source, open_source
from fourm_engine.data.splits import SPLITS
from fourm_plugins.activation import run
from fourm_plugins.discovery import Plugin, PluginError
from fourm_plugins.errors import SampleError
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.recognition import Recognised

log = logging.getLogger(__name__)
#: Samples whose files every plugin is asked about, and those from which the chosen one says its settings.
FEW, MANY = 16, 200
#: Bytes of them that are read in all.
MAX_READ = 128 << 20
#: Of the score that a folder named otherwise counts; scores below the least are no recognition.
UNNAMED, LEAST = 0.6, 0.3
#: Formats that a plugin may read although the class does not say so.
_COMMON = ("png", "jpg", "jpeg", "webp", "npy", "txt", "json")
#: What parts of a data set are called; a year or number may follow.
TRAIN = re.compile(r"(train|training|trn)[-_]?\d*", re.IGNORECASE)
VAL = re.compile(r"(val|valid|validation|dev|eval|test|testing)[-_]?\d*", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """One modality of the folder."""

    name: str
    plugin: Plugin
    source: str
    recognised: Recognised
    modality: Modality  # with the settings that fit, at its default size
    samples: frozenset[str]
    looked: int
    #: Other plugins that recognise the same files, less surely.
    rivals: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        return {key: value for key, (value, _) in self.recognised.settings.items()}


@dataclass(frozen=True)
class Survey:
    """`train` and `val` are the folders of the data, one where they are not apart; `notes` say what is not used."""

    root: Path
    train: Path
    val: Path | None
    found: list[Found]
    notes: list[str] = field(default_factory=list)

    @property
    def samples(self) -> frozenset[str]:
        return frozenset().union(*(found.samples for found in self.found))

    @property
    def paired(self) -> int:
        """Samples that have files of more than one kind."""
        kinds = {found.modality.spec.files: found.samples for found in self.found}
        counts = (sum(name in names for names in kinds.values()) for name in self.samples)
        return sum(count > 1 for count in counts)


def survey(root: Path, manager: PluginManager) -> Survey:
    """Raises ValueError, one line, for a folder that is not there or holds nothing that an installed plugin
    recognises, and where no two modalities have a sample in common."""
    folders, loose = _entries(root)
    train, val = _parts(root, folders)
    if train != root:
        folders, loose = _entries(train)
    notes: list[str] = []
    asked = _Asked(train, manager, notes)
    if not asked.classes:
        raise ValueError("no modality is installed that could be recognised; see `fourm plugins list`")
    sources = {folder: answers for folder in folders if (answers := asked.about(folder))}
    loose_data = [name for name in loose if split(name, asked.extensions) is not None or name.lower().endswith(".tar")]
    if (not sources and loose_data) or _one_in_parts(sources, asked):
        sources, loose_data = ({".": answers} if (answers := asked.about(".")) else {}), []
    found = asked.settle(sources)
    if not found:
        raise ValueError(_nothing(train, folders, loose, asked))
    notes += asked.left_out(folders, found)
    if loose_data and found[0].source != ".":
        notes.append(
            f"files in {shown(train)} itself are not read: {len(loose_data)}, such as {shown(loose_data[0])}; "
            f"move them into a folder of their modality"
        )
    result = Survey(root, train, val, found, list(dict.fromkeys(notes)))
    names = {found.source: found.samples for found in found}
    if len({found.modality.spec.files for found in found}) > 1 and not result.paired:
        why = "; ".join(unpaired(names)) or f"such as {', '.join(shown(min(n)) for n in names.values())}"
        raise ValueError(
            f"{shown(train)}: no sample has files of more than one of {', '.join(names)}: {why}. The files of one sample "
            f"have one name in each folder; to use one kind alone, leave the others out: --no-plugin NAME"
        )
    return result


def _entries(root: Path) -> tuple[list[str], list[str]]:
    """Names of the folders, and of the files, in a folder. Raises ValueError where there is none to look at."""
    if not root.exists():
        raise ValueError(f"{shown(root)}: no such folder")
    if not root.is_dir():
        what = "an archive" if is_archive(root.name) or root.suffix.lower() == ".tar" else "a file"
        raise ValueError(
            f"{shown(root)}: {what}, not a folder; name the folder that holds the data"
            + (", unpacked" if what == "an archive" else "")
        )
    folders, files = list[str](), list[str]()
    with os.scandir(root) as entries:
        for entry in entries:
            if not is_litter(entry.name) and entry.name != SPLITS:
                (folders if entry.is_dir() else files).append(entry.name)
    if not folders and not files:
        raise ValueError(f"{shown(root)}: an empty folder")
    return sorted(folders), sorted(files)


def _parts(root: Path, folders: Sequence[str]) -> tuple[Path, Path | None]:
    """Where training and held-out data lie: in sub-folders of the usual names, or both in `root` (None)."""
    train = next((name for name in folders if TRAIN.fullmatch(name)), None)
    if train is None:
        return root, None
    held_out = [name for name in folders if VAL.fullmatch(name)]
    return root / train, root / max(held_out, key=lambda name: name.lower()[0]) if held_out else None  # val before test


class _Asked:
    """What the plugins say of the folders."""

    def __init__(self, root: Path, manager: PluginManager, notes: list[str]) -> None:
        self.root, self.manager, self.notes = root, manager, notes
        self.classes: dict[str, type[Modality]] = {}
        for plugin in (p for p in manager.plugins if p.kind == "modality" and p.state == "ok"):
            try:
                self.classes[plugin.name] = manager.modality_class(plugin.name)
            except PluginError as error:
                notes.append(f"plugin left out: {_first_line(error)}")
        own = (getattr(cls, "extensions", ()) for cls in self.classes.values())
        self.extensions = tuple(dict.fromkeys((*_COMMON, *(e for extensions in own for e in extensions))))
        self.sources: dict[str, Source] = {}

    def about(self, source: str) -> list[tuple[float, str, Recognised]]:
        """(score, plugin, what it says) of those that recognise a folder, the surest first."""
        try:
            opened = open_source(self.root, source, self.extensions)
        except (ValueError, OSError) as error:
            self.notes.append(_first_line(error))
            return []
        if opened is None or not opened.names:
            return []
        self.sources[source] = opened
        samples, found = self._some(source, FEW), []
        for name in self.classes:
            recognised = self._ask(name, source, samples)
            if recognised is not None:
                score = recognised.score * (1 if self._named(name, source) else UNNAMED)
                if score >= LEAST:
                    found.append((score, name, recognised))
        return sorted(found, key=lambda entry: (-entry[0], entry[1]))

    def _named(self, plugin: str, source: str) -> bool:
        """Whether a folder is called as the data of a plugin."""
        where = self.root.name if source == "." else source
        return bool(_words(where) & _words(" ".join((plugin.partition("@")[0], *self.classes[plugin].folders))))

    def _some(self, source: str, number: int) -> list[dict[str, bytes]]:
        """The files of `number` samples, fewer where they are large: the same whenever it is called."""
        opened, read, some = self.sources[source], 0, []
        names = random.Random(0).sample(opened.names, min(number, len(opened.names)))
        for name in names:
            try:
                files = opened.files(name)
            except (SampleError, OSError) as error:
                self.notes.append(f"cannot be read: {opened.where(name)}: {_first_line(error)}")
                continue
            some.append(files)
            read += sum(map(len, files.values()))
            if read > MAX_READ * number // MANY:
                break
        return some

    def _ask(self, name: str, source: str, samples: list[dict[str, bytes]]) -> Recognised | None:
        plugin = self.manager.find("modality", name)
        try:
            answer = run(plugin, "asked about files", lambda: self.classes[name].recognise(samples))
        except (PluginError, ValueError) as error:
            self.notes.append(f"plugin {name} left out of {shown(source)}: {_first_line(error)}")
            return None
        if answer is None:
            return None
        if not isinstance(answer, Recognised) or not 0 < answer.score <= 1 or math.isnan(answer.score):
            self.notes.append(f"plugin {name} left out of {shown(source)}: it answers {answer!r:.60}, no Recognised")
            return None
        return answer

    def settle(self, sources: Mapping[str, list[tuple[float, str, Recognised]]]) -> list[Found]:
        """Which plugin reads which folder: the surest first, each folder's files by one plugin and by what sees the
        same files as continuous input."""
        found: list[Found] = []
        entries = [(entry, source) for source, answers in sources.items() for entry in answers]
        for (score, name, _), source in sorted(entries, key=lambda e: (-e[0][0], e[1], e[0][1])):
            made = self._make(name, source, taken={f.name for f in found})
            if made is None:
                continue
            spec = made.modality.spec
            same = [f for f in found if f.source == source and set(f.modality.spec.extensions) & set(spec.extensions)]
            best = max((s for s, n, _ in sources[source] if n in {f.plugin.name for f in same}), default=0.0)
            shares = same and spec.files == same[0].modality.spec.files and score >= best
            beside = shares and spec.continuous != same[0].modality.spec.continuous and len(same) == 1
            if same and not beside:
                if score >= UNNAMED * best and (not shares or spec.continuous == same[0].modality.spec.continuous):
                    k = found.index(same[0])
                    found[k] = replace(found[k], rivals=(*found[k].rivals, name))
                continue
            found.append(made)
        return sorted(found, key=lambda f: (f.source, f.modality.spec.continuous, f.name))

    def _make(self, name: str, source: str, *, taken: set[str]) -> Found | None:
        """The modality of a folder under its plugin's name, or where that is taken as `plugin@folder`."""
        called = name
        if name in taken:
            called = f"{name.partition('@')[0]}@{re.sub(r'[^a-z0-9_]+', '_', source.lower()).strip('_') or 'other'}"
            if "@" in name or called in taken:
                return None
        samples = self._some(source, MANY)
        recognised = self._ask(name, source, samples)
        if recognised is None:
            return None
        plugin, settings = self.manager.find("modality", name), {k: v for k, (v, _) in recognised.settings.items()}
        try:
            if "source" in self.classes[name].Settings.model_fields:
                settings["source"] = source
            modality = self.manager.modality(called, plugin=name, **settings)
            if modality.spec.source != source:
                remedy = f"rename it to {modality.spec.source}: {name} has no setting for its folder"
                self.notes.append(f"{shown(self.root / source)} looks like {name}, {remedy}")
                return None
            opened = open_source(self.root, source, modality.spec.extensions)
        except (ValueError, OSError) as error:
            self.notes.append(f"plugin {name} left out of {shown(source)}: {_first_line(error)}")
            return None
        names = frozenset(opened.names if opened is not None else ())
        looked = sum(any(e in files for e in modality.spec.extensions) for files in samples)
        # Of files of other kinds, a few that are read by accident say nothing.
        if len(names) < 0.1 * len(self.sources[source].names):
            return None
        return Found(called, plugin, source, recognised, modality, names, looked)

    def left_out(self, folders: Iterable[str], found: Sequence[Found]) -> list[str]:
        """A line for each folder that nothing reads, and on what its listing says."""
        read = {f.source for f in found}
        lines = [note for source, opened in self.sources.items() if source in read for note in opened.notes]
        if "." not in read:
            for folder in sorted(set(folders) - read):
                if folder in self.sources:
                    names = self.sources[folder].names
                    lines.append(
                        f"{shown(folder)}/ is not read: no installed plugin recognises its {len(names)} samples"
                    )
        return lines


def _one_in_parts(sources: Mapping[str, list[tuple[float, str, Recognised]]], asked: _Asked) -> bool:
    """Whether all folders are parts of one modality, such as a folder a day: one plugin recognises each best, and hardly
    a sample's name is in two."""
    best = {answers[0][1] for answers in sources.values()}
    names = [frozenset(asked.sources[source].names) for source in sources]
    if len(sources) < 2 or len(best) > 1:
        return False
    return len(frozenset().union(*names)) > 0.75 * sum(map(len, names))


def _words(text: str) -> set[str]:
    """Words of a name, in small letters and the singular; two in a row also as one."""
    words = [
        word.rstrip("s") or word for word in re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())
    ]
    return {*words, *(a + b for a, b in zip(words, words[1:]))}


def _nothing(root: Path, folders: Sequence[str], loose: Sequence[str], asked: _Asked) -> str:
    seen = [f"{shown(name)}/" for name in folders[:5]] + [shown(name) for name in loose[: 5 - len(folders[:5])]]
    archives = [name for name in loose if is_archive(name)]
    remedy = f"unpack {shown(archives[0])}; " if archives else ""
    inner = next((f for f in folders if f not in asked.sources or not asked.about(f)), None)
    if inner is not None:
        remedy += (
            f"if the folders of the modalities lie deeper, name what holds them: fourm init {shown(root / inner)}; "
        )
    about = f" ({'; '.join(asked.notes[:3])})" if asked.notes else ""
    return (
        f"{shown(root)}: no installed modality recognises what is there: {', '.join(seen)}{about}; {remedy}"
        f"installed: {', '.join(sorted(asked.classes))}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]

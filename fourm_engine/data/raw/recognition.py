"""Recognises which installed plugin reads which sub-folder of a data folder.

In: a folder and the plugin host. Out: one `Match` per modality. Every plugin examines the files of a few samples of
each sub-folder (`Modality.recognise`), and the chosen one those of more. The choice of samples is seeded.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from fourm_engine.data.raw.documents import read_documents
from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.folder import unread
from fourm_engine.data.raw.local_sources import open_source, root_shards
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.sample_shards import Claim, open_sample_shards
from fourm_engine.data.raw.shard_scan import scan
from fourm_engine.data.raw.source import Source
from fourm_plugins.activation import run
from fourm_plugins.counting import counted
from fourm_plugins.discovery import Plugin, PluginError
from fourm_plugins.errors import SampleError, first_line
from fourm_plugins.manager import PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.recognition import Recognised, contents

#: Number of samples that every plugin examines, and number from which the chosen one derives its settings.
FEW, MANY = 16, 200
#: Maximum total size in bytes of the latter's files.
MAX_READ = 128 << 20
#: Factor of the score in a folder that is not named after the plugin, so that a name outweighs any content; minimum
#: score for a recognition; minimum score of another plugin, relative to the best one's, to be reported.
UNNAMED, LEAST, CLOSE = 0.6, 0.3, 0.56
#: Minimum fraction of a folder's samples with files for a plugin; a few files of other plugins may fit by accident.
COVERED = 0.1
#: Formats that a plugin may read even if its class does not declare them.
_COMMON = ("png", "jpg", "jpeg", "webp", "npy", "txt", "json")
#: Test for files without content -> their description, and the remedy.
_HOLLOW: dict[Callable[[bytes], bool], tuple[str, str]] = {
    lambda content: not content: ("empty files", "copy them anew"),
    lambda content: content.startswith(b"version https://git-lfs"): ("pointers of Git LFS", "run `git lfs pull`"),
}


@dataclass(frozen=True)
class Answer:
    """A plugin's answer about a folder. `score` takes the folder's name into account."""

    score: float
    plugin: str
    recognised: Recognised


@dataclass(frozen=True)
class Match:
    """A modality recognised in a folder. `modality` has the settings that fit its files."""

    name: str
    plugin: Plugin
    source: str
    recognised: Recognised
    modality: Modality
    samples: frozenset[str]
    looked: int  # number of samples on which the settings are based
    score: float
    #: Other plugins that recognise the same files with a similar score.
    rivals: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, tuple[str, ...]]:
        return self.modality.spec.files


class Recogniser:
    """The plugins' answers about the sub-folders of `root`. `notes` lists everything that is skipped: plugins that
    fail, and unreadable folders and files."""

    def __init__(self, root: Path, manager: PluginManager) -> None:
        self.root, self.manager, self.notes = root, manager, list[str]()
        self.classes: dict[str, type[Modality]] = {}
        for plugin in (p for p in manager.plugins if p.kind == "modality"):
            try:
                if plugin.state != "disabled":
                    self.classes[plugin.name] = manager.modality_class(plugin.name)
            except PluginError as error:
                self.notes.append(f"plugin {plugin.name} left out: {first_line(error)}")
        declared = (getattr(cls, "extensions", ()) for cls in self.classes.values())
        self.extensions = tuple(dict.fromkeys((*_COMMON, *(e for extensions in declared for e in extensions))))
        #: WebDataset shards, and the sources that their members name.
        self.shards = root_shards(root)
        self.inside = _named_inside(root / self.shards[0]) if self.shards else []
        self.sources: dict[str, Source] = {}
        self._opened: dict[tuple[str, tuple[str, ...]], Source | None] = {}
        self._read: tuple[str, list[dict[str, bytes]]] = ("", [])

    def about(self, source: str) -> list[Answer]:
        """Answers of the plugins that recognise a folder, highest score first."""
        try:
            opened = self._open(source, self.extensions)
        except (ValueError, OSError) as error:
            self.notes.append(unread(self.root / source, self.extensions) or self._closed(source, first_line(error)))
            return []
        if opened is None or not opened.names:
            return []
        self.sources[source] = opened
        samples, answers = self._some(source, FEW), []
        for name in self.classes:
            recognised = self._ask(name, source, samples)
            if recognised is not None and recognised.score >= LEAST:
                named = self.named(name, source)
                score = (1 + recognised.score) / 2 if named else UNNAMED * recognised.score
                answers.append(Answer(score, name, recognised))
        return sorted((a for a in answers if a.score >= LEAST), key=lambda a: (-a.score, a.plugin))

    def _closed(self, source: str, why: str) -> str:
        """Note a folder that cannot be opened, possibly because of a single file."""
        inside = source == "." or source in self.inside
        what = f"the files in {shown(self.root)} itself are" if inside else f"{shown(source)}/ is"
        return f"{why}; {what} left out of the config until you run `fourm init` again (--force)"

    def refusal(self, source: str) -> tuple[str, str] | None:
        """The plugin that a folder is named after, and why it cannot read the files; None if the folder is named after
        no plugin, or after one that can read them."""
        named, samples = [name for name in self.classes if self.named(name, source)], self._some(source, FEW)
        if source == "." or any((a := self._ask(name, source, samples)) and a.score >= LEAST for name in named):
            return None
        return next(((name, why) for name in named if (why := self._trouble(name, source, samples))), None)

    def why_not(self, source: str) -> str:
        """Why no plugin reads a folder."""
        where = f"{shown(source)}/ is not read: "
        if (refusal := self.refusal(source)) is not None:
            return f"{where}it is named after {refusal[0]}, which cannot read it: {refusal[1]}; or rename the folder"
        samples = self._some(source, FEW)
        if said := next((a.what for n in self.classes if (a := self._ask(n, source, samples)) and a.score < LEAST), ""):
            return where + said
        number = counted(len(self.sources[source].names), "sample")
        return f"{where}no installed plugin recognises its {number}; to write one: fourm plugins new NAME"

    def _trouble(self, name: str, source: str, samples: list[dict[str, bytes]]) -> str:
        if (recognised := self._ask(name, source, samples)) is not None:
            return recognised.what
        try:
            modality = self.manager.modality("probe", plugin=name)
        except ValueError:  # a setting without a default
            return ""
        reads = modality.spec.extensions
        readable = [files for files in samples if contents([files], reads)]
        if samples and not readable:
            there = Counter(extension for files in samples for extension in files).most_common(1)[0][0]
            return f"it reads {', '.join('.' + extension for extension in reads)}, not .{there}"
        for files in readable:
            try:
                modality.read(files)
            except SampleError as error:
                return first_line(error)
        return ""

    def _open(self, source: str, extensions: Sequence[str]) -> Source | None:
        """Raises ValueError as `open_source` does."""
        if source not in self.inside:
            return open_source(self.root, source, extensions)
        claims = [Claim(name, tuple(extensions), (name,)) for name in self.inside]  # of all: none gets another's
        shared = open_sample_shards(self.root, self.shards, claims, max_bytes=MAX_FILE_BYTES, scan=scan)
        return shared.sources.get((source, tuple(extensions)))

    def settle(self, answers: Mapping[str, list[Answer]]) -> list[Match]:
        """The best plugin for the files of each folder, and those that read the same files as continuous input; highest
        score first."""
        matches: list[Match] = []
        everything = [(answer, source) for source, some in answers.items() for answer in some]
        for answer, source in sorted(everything, key=lambda e: (-e[0].score, e[1], e[0].plugin)):
            made = self._make(answer, source, taken={f.name for f in matches})
            if made is None or self._anothers(made):
                continue
            extensions = set(made.modality.spec.extensions)
            same = [f for f in matches if f.source == source and extensions & set(f.modality.spec.extensions)]
            if not same or (len(same) == 1 and _both(same[0], made)):
                matches.append(made)
            elif answer.score >= CLOSE * same[0].score and not any(_both(f, made) for f in same):
                matches[matches.index(same[0])] = replace(same[0], rivals=(*same[0].rivals, answer.plugin))
        return sorted(matches, key=lambda f: (f.source, f.modality.spec.continuous, f.name))

    def _anothers(self, made: Match) -> bool:
        """Whether a folder is named after another plugin that rejects these files, or is this plugin's second folder.
        In both cases the user should change the files rather than the name."""
        if self.named(made.plugin.name, made.source) or (refusal := self.refusal(made.source)) is None:
            return False
        extensions = set(getattr(self.classes[refusal[0]], "extensions", ()))
        return made.name != made.plugin.name or bool(extensions & set(made.modality.spec.extensions))

    def named(self, plugin: str, source: str) -> bool:
        """Whether a folder is named after a plugin."""
        where = self.root.resolve().name if source == "." else source
        return bool(_words(where) & _words(" ".join((plugin.partition("@")[0], *self.classes[plugin].folders))))

    def _some(self, source: str, number: int) -> list[dict[str, bytes]]:
        """The files of `number` samples, fewer if they are large; the same on every call."""
        if number == MANY and self._read[0] == source:
            return self._read[1]
        opened, read, some = self.sources[source], 0, list[dict[str, bytes]]()
        hollow = dict[tuple[str, str], list[str]]()
        for name in random.Random(0).sample(opened.names, min(number, len(opened.names))):
            try:
                some.append(opened.files(name))
            except (SampleError, OSError) as error:
                self.notes.append(f"cannot be read: {opened.where(name)}: {first_line(error)}")
                continue
            read += sum(map(len, some[-1].values()))
            if why := next((why for start, why in _HOLLOW.items() if any(map(start, some[-1].values()))), None):
                some.pop()
                hollow.setdefault(why, []).append(opened.where(name))
            if read > MAX_READ * number // MANY:
                break
        if number == MANY or not some:
            for (what, remedy), files in hollow.items():
                note = f"{what} among those looked at: {len(files)}, such as {files[0]}; {remedy}"
                if note not in self.notes:  # a folder without usable files is read at each size
                    self.notes.append(note)
        if number == MANY:
            self._read = source, some
        return some

    def _ask(self, name: str, source: str, samples: list[dict[str, bytes]]) -> Recognised | None:
        try:
            cls, plugin = self.classes[name], self.manager.find("modality", name)
            answer = run(plugin, "asked about files", lambda: cls.recognise(samples))
        except ValueError as error:
            self.notes.append(f"plugin {name} left out of {shown(source)}: {first_line(error)}")
            return None
        if answer is None or (isinstance(answer, Recognised) and 0 < answer.score <= 1):  # nor NaN
            return answer
        self.notes.append(f"plugin {name} left out of {shown(source)}: it answers {answer!r:.60}, not a Recognised")
        return None

    def _make(self, answer: Answer, source: str, *, taken: set[str]) -> Match | None:
        """The modality of a folder, named after its plugin or, if that name is taken, `plugin@folder`; None, with a
        note, if neither is possible."""
        called, plugin = answer.plugin, self.manager.find("modality", answer.plugin)
        if called in taken:
            called = f"{called.partition('@')[0]}@{re.sub(r'[^a-z0-9]+', '_', source.lower()).strip('_') or 'other'}"
            if "@" in answer.plugin or called in taken:
                return None
        samples = self._some(source, MANY)
        recognised = self._ask(answer.plugin, source, samples)
        if recognised is None:
            return None
        recognised = self._with_documents(answer.plugin, source, recognised, samples)
        settings = {key: value for key, (value, _) in recognised.settings.items()}
        if "source" in self.classes[answer.plugin].Settings.model_fields:
            settings["source"] = source
        try:
            modality = self.manager.modality(called, plugin=answer.plugin, **settings)
            key = modality.spec.files
            if modality.spec.source == source and key not in self._opened:
                self._opened[key] = self._open(*key)
        except (ValueError, OSError) as error:
            self.notes.append(f"plugin {answer.plugin} left out of {shown(source)}: {first_line(error)}")
            return None
        if modality.spec.source != source:
            what = f"looks like {answer.plugin}, which has no setting for its folder"
            self.notes.append(f"{shown(source)}/ {what}; rename it to {modality.spec.source}")
            return None
        opened = self._opened[key]
        names = frozenset(opened.names if opened is not None else ())
        if len(names) < COVERED * len(self.sources[source].names):
            return None
        looked = sum(any(extension in files for extension in modality.spec.extensions) for files in samples)
        return Match(called, plugin, source, recognised, modality, names, looked, answer.score)

    def _with_documents(
        self, name: str, source: str, recognised: Recognised, samples: list[dict[str, bytes]]
    ) -> Recognised:
        """Apply the settings from a document next to the files, if the files can be read with them."""
        plugin = self.manager.find("modality", name)
        given, where = read_documents(self.classes[name], plugin, [self.root / source, self.root])
        if not given:
            return recognised
        why = f"as {where.rpartition('/')[2]} says"
        settings = dict(recognised.settings) | {key: (value, why) for key, value in given.items()}
        try:
            values = {key: value for key, (value, _) in settings.items()}
            modality = self.manager.modality("probe", plugin=name, **values)
            for files in samples:
                if contents([files], modality.spec.extensions):
                    modality.read(files)
        except (SampleError, ValueError) as error:
            self.notes.append(f"{where} is not used: it does not fit the files: {first_line(error)}")
            return recognised
        return replace(recognised, settings=settings)


def _both(first: Match, second: Match) -> bool:
    """Whether two modalities read the same files, one as tokens and the other, with at least the same score, as
    continuous input."""
    continuous = first.modality.spec.continuous, second.modality.spec.continuous
    return first.files == second.files and continuous[0] != continuous[1] and second.score >= first.score


def _named_inside(shard: Path) -> list[str]:
    """The sources in the names of a WebDataset shard's members, as in `0001.depth.png`, if at least a twentieth have
    them. Empty for an unreadable shard, which is reported when it is opened."""
    try:
        files = [path.rpartition("/")[2].split(".") for path in scan(shard).samples]
    except (ValueError, OSError):
        return []
    counts = Counter(parts[-2] for parts in files if len(parts) > 2 and not parts[-2].isdecimal())
    return sorted(name for name, number in counts.items() if number >= 0.05 * len(files))


def _words(text: str) -> set[str]:
    """The words of a name, in lower case and singular, and pairs of adjacent words joined."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower()
    words = [word.rstrip("s") or word for word in re.findall(r"[a-z]+", apart)]
    return {*words, *(first + second for first, second in pairwise(words))}


def disjoint(matches: Sequence[Match]) -> tuple[list[Match], list[str]]:
    """The matches without those of a plugin's second folder that has no sample in common with its first, and a note
    on each of these."""
    kept, notes = list[Match](), list[str]()
    for one in sorted(matches, key=lambda f: f.name != f.plugin.name):
        first = next((f for f in kept if f.plugin == one.plugin), None)
        if first is None or first.samples & one.samples:
            kept.append(one)
        else:
            what = f"it is {one.plugin.name} as {shown(first.source)}/, with other samples"
            notes.append(f"{shown(one.source)}/ is not read: {what}; move both into one folder")
    return [one for one in matches if one in kept], notes

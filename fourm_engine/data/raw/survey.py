"""Surveys a folder: its splits, the modality in each sub-folder, and how samples match across them.

In: a folder, and the plugin host. Out: a `Survey`. Nothing is written.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fourm_engine.data.raw.folder import is_folder, unread
from fourm_engine.data.raw.local_sources import open_source
from fourm_engine.data.raw.names import is_archive, is_litter, shown, split
from fourm_engine.data.raw.pairing import unpaired
from fourm_engine.data.raw.recognition import Answer, Match, Recogniser, disjoint
from fourm_engine.data.raw.unfold import TextFolder, find_texts, unfold
from fourm_engine.data.splits import SPLITS
from fourm_plugins.counting import counted, some
from fourm_plugins.manager import PluginManager

#: Names of the splits of a data set; a year or number may follow.
TRAIN = re.compile(r"(train|training|trn)[-_]?\d*", re.IGNORECASE)
VAL = re.compile(r"(val|valid|validation|dev|eval|test|testing)[-_]?\d*", re.IGNORECASE)


@dataclass(frozen=True)
class Survey:
    """`train` and `val` are the folders of the splits, if they are separate; otherwise `train` is the folder itself.
    `notes` list what is not used, and why."""

    train: Path
    val: Path | None
    matches: list[Match]
    notes: list[str] = field(default_factory=list)

    @property
    def samples(self) -> frozenset[str]:
        return frozenset().union(*(match.samples for match in self.matches))

    @property
    def kinds(self) -> dict[tuple[str, tuple[str, ...]], frozenset[str]]:
        """Kind of file (source and extensions) -> the samples that have one."""
        return {match.files: match.samples for match in self.matches}

    @property
    def paired(self) -> int:
        """Samples that have files of more than one kind."""
        kinds = self.kinds.values()
        return sum(sum(name in names for names in kinds) > 1 for name in self.samples)


def survey(root: Path, manager: PluginManager) -> Survey:
    """Survey a folder. Raises ValueError, one line, for a folder that does not exist or contains nothing that an
    installed plugin recognises, and if no two modalities have a sample in common."""
    folders, loose = _entries(root)
    train, val = _parts(root, folders)
    if train != root:
        folders, loose = _entries(train)
    recogniser = Recogniser(train, manager)
    if not recogniser.classes:
        raise ValueError("no modality is installed that can be used; see `fourm plugins list`")
    folders = sorted({*folders, *recogniser.inside})
    answers = {folder: some for folder in folders if (some := recogniser.about(folder))}
    tars = () if answers.keys() & set(recogniser.inside) else (".tar",)  # else they are read
    data = [n for n in loose if split(n, recogniser.extensions) is not None or n.lower().endswith(tars)]
    if (data and not answers) or _parts_of_one(answers, recogniser):
        answers, data = ({".": some} if (some := recogniser.about(".")) else {}), []
    texts, unusable = _texts(root, train, recogniser)
    if data and answers.keys() <= {some.folder.name for some in texts}:  # the files of the samples lie beside
        plugins = {some.plugin for some in texts}
        answers, data = answers | {".": [one for one in recogniser.about(".") if one.plugin not in plugins]}, []
    matches, notes = disjoint(recogniser.settle(answers))
    if not matches:
        raise ValueError(_nothing(train, folders, loose, recogniser))
    tables = {table.path.parent.name for some in texts for table, _ in some.columns}
    notes += _left_out(train, [name for name in folders if name not in tables], data, matches, recogniser)
    notes = [*recogniser.notes, *notes, *unusable, *(some.unread for some in texts if not some.folder.exists())]
    result = Survey(train, val, matches, list(dict.fromkeys(notes)))
    if len(result.kinds) > 1 and not result.paired:
        names = {one.source: one.samples for one in matches}
        why = "; ".join(unpaired(names)) or f"such as {' and '.join(shown(min(n)) for n in names.values())}"
        several = f"no sample has files of more than one of {', '.join(map(shown, names))}: {why}"
        alone = "to use one kind alone, leave out the others: --no-plugin NAME"
        raise ValueError(f"{shown(train)}: {several}. Files of one sample have one name in each folder; {alone}")
    return result


def unpack_tables(root: Path, manager: PluginManager) -> list[str]:
    """Write the samples' texts in tables to folders that `survey` finds. Returns a line for each. Raises ValueError,
    and CannotWrite."""
    folders, _ = _entries(root)
    lines = []
    for part in filter(None, _parts(root, folders)):
        recogniser = Recogniser(part, manager)
        missing = [texts for texts in _texts(root, part, recogniser)[0] if not texts.folder.exists()]
        if missing:
            samples = _samples(part, _entries(part)[0], recogniser) or _samples(part, ["."], recogniser)
            lines += [unfold(texts, samples) for texts in missing]
    return lines


def _samples(root: Path, folders: Sequence[str], recogniser: Recogniser) -> frozenset[str]:
    sources = (open_source(root, name, recogniser.extensions) for name in folders)
    return frozenset().union(*(source.names for source in sources if source is not None))


def _texts(root: Path, part: Path, recogniser: Recogniser) -> tuple[list[TextFolder], list[str]]:
    """Of the tables in a part of a data set and in its folders; where parts are apart, also of those beside them."""
    beside = [part / name for name in _entries(part)[0]]
    if part != root:
        beside += [root, *(root / n for n in _entries(root)[0] if not TRAIN.fullmatch(n) and not VAL.fullmatch(n))]
    return find_texts(part, beside, recogniser)


def _entries(root: Path) -> tuple[list[str], list[str]]:
    """Names of the folders, and of the files, in a folder. Raises ValueError if it cannot be listed."""
    if not root.exists():
        raise ValueError(f"{shown(root)}: no such folder")
    if not root.is_dir():
        archive = is_archive(root.name) or root.suffix.lower() == ".tar"
        what = "an archive, not a folder; unpack it, and name the folder" if archive else "a file; name the folder"
        raise ValueError(f"{shown(root)}: {what} that holds your data")
    folders, files = list[str](), list[str]()
    with os.scandir(root) as entries:
        for entry in entries:
            if not is_litter(entry.name) and entry.name != SPLITS:
                (folders if is_folder(entry) else files).append(entry.name)
    if not folders and not files:
        raise ValueError(f"{shown(root)}: an empty folder; name the one that holds your data")
    return sorted(folders), sorted(files)


def _parts(root: Path, folders: Sequence[str]) -> tuple[Path, Path | None]:
    """The folders of training and held-out data: sub-folders with the usual names, or `root` for both (None)."""
    train = next(filter(TRAIN.fullmatch, folders), None)
    if train is None:
        return root, None
    held_out = sorted(filter(VAL.fullmatch, folders), key=lambda name: name.lower().startswith("test"))
    return root / train, root / held_out[0] if held_out else None


def _parts_of_one(answers: Mapping[str, list[Answer]], recogniser: Recogniser) -> bool:
    """Whether all folders are parts of one modality, such as one folder per day: the same plugin recognises all of them
    best, and few names occur twice."""
    names = [frozenset(recogniser.sources[source].names) for source in answers]
    if len(answers) < 2 or len({some[0].plugin for some in answers.values()}) > 1:
        return False
    return len(frozenset().union(*names)) > 0.75 * sum(map(len, names))


def _left_out(
    train: Path, folders: Sequence[str], data: Sequence[str], matches: Sequence[Match], recogniser: Recogniser
) -> list[str]:
    """A line for each folder and each kind of file that no modality reads."""
    read = {one.source for one in matches}
    lines = [str(note) for source in sorted(read) for note in recogniser.sources[source].notes]
    each = {source: recogniser.sources[source].names for source in sorted(read)}
    lines += [_inside_out(source, names, recogniser) for source, names in each.items()]
    lines.append(_inside_out("", (f"{source}/{name}" for source, names in each.items() for name in names), recogniser))
    for folder in sorted(set(folders) - read) if "." not in read else ():
        if folder in recogniser.sources and not any(shown(folder) + "/" in note for note in recogniser.notes):
            lines.append(recogniser.why_not(folder))
    if data := [name for name in data if not name.lower().endswith(".json")]:  # which describe the data
        files = f"{len(data)}, such as {shown(data[0])}"
        lines.append(f"files in {shown(train)} itself are not read: {files}; move them into a folder of their modality")
    return list(filter(None, lines))


def _inside_out(source: str, names: Iterable[str], recogniser: Recogniser) -> str:
    """A note on a folder that looks like `<scene>/<modality>/<sample>`, with the same folder names in most scenes, each
    with the same samples; the modality should come first. For the data folder itself ("") only if the folders are named
    after modalities."""
    kinds, scenes = defaultdict[tuple[str, str], set[str]](set), defaultdict[str, set[str]](set)
    for path in (name.rsplit("/", 2) for name in names):
        if len(path) == 3 and any(map(str.isalpha, path[1])):
            kinds[path[0], path[2]].add(path[1])
            scenes[path[0]].add(path[1])
    usual, number = Counter(map(frozenset, scenes.values())).most_common(1)[0] if scenes else (frozenset[str](), 0)
    paired = sum(len(there) > 1 for there in kinds.values())
    if len(usual) < 2 or number < max(2, len(scenes) / 2) or paired < len(kinds) / 2:
        return ""
    if not source and (_called(scenes, recogniser) or not _called(usual, recogniser)):
        return ""
    most = "each" if number == len(scenes) else f"{number:,}"
    where, scene = source if source not in ("", ".") else "the folder", min(scenes)
    return (
        f"{shown(where)}: {shown(', '.join(sorted(usual)))} in {most} of its {counted(len(scenes), 'folder')} look "
        "like modalities, but are not read as such; put the modality first: "
        + " and ".join(shown(f"{kind}/{scene}/…") for kind in sorted(usual)[:2])
    )


def _called(folders: Iterable[str], recogniser: Recogniser) -> bool:
    """Whether a folder is named after a plugin."""
    return any(recogniser.named(plugin, folder) for folder in folders for plugin in recogniser.classes)


def _has_folders(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(map(is_folder, entries))


def _nothing(root: Path, folders: Sequence[str], loose: Sequence[str], recogniser: Recogniser) -> str:
    seen = [*(f"{shown(name)}/" for name in folders), *map(shown, loose)]
    line = f"{shown(root)}: no installed modality recognises what is there ({some(seen)})"
    if archive := next(filter(is_archive, loose), None):
        line += f"; unpack {shown(archive)}"
    refused = [name for name in folders if name in recogniser.sources and recogniser.refusal(name)]
    about = [*map(recogniser.why_not, refused), *recogniser.notes][:3]
    deeper = next((name for name in folders if _has_folders(root / name)), None)
    if deeper is not None:
        about.append(f"if the folders of the modalities lie deeper: fourm init {shown(root / deeper)}")
    elif not about:
        about = list(filter(None, [unread(root, recogniser.extensions)]))
    return f"{'; '.join((line, *about))}; installed: {', '.join(sorted(recogniser.classes))} (`fourm plugins list`)"

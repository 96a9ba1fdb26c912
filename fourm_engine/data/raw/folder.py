"""Loose files: lists a folder, and finds the samples in it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fourm_engine.data.raw.file_bytes import MAX_FILE_BYTES
from fourm_engine.data.raw.names import is_archive, is_document, is_litter, remedy_for, shown, split, wrapping
from fourm_engine.data.raw.notes import LeftOut, Note
from fourm_engine.data.raw.source import FileSource, LooseFiles
from fourm_engine.files import check_shortage

UNPACK = "unpack them where they lie, or store them as plain .tar"


class Listing:
    """The files below a folder, including linked sub-folders: `files`, those with one of the extensions, and `shards`,
    as paths relative to the folder, both sorted. `left_out` counts all others except those with an extension of
    `others`, which another modality reads."""

    def __init__(self, folder: Path, extensions: Sequence[str], others: Sequence[str] = ()) -> None:
        self.folder, self.extensions = Path(folder), tuple(extensions)
        self.files: list[str] = []
        self.shards: list[str] = []
        #: Sub-folder -> its time before it was listed (ns): while it is unchanged, nothing was added or removed.
        self.folders: dict[str, int] = {}
        self.left_out = LeftOut()
        for path in self._walk():
            file = path.rpartition("/")[2]
            if split(file, extensions) is not None:
                self.files.append(path)
            elif file.lower().endswith(".tar"):
                self.shards.append(path)
            elif is_archive(file):
                self.left_out.add("compressed archives", path, UNPACK, kind="archive")
            elif not is_document(file) and split(file, others) is None:
                what = f"files that are no {', '.join('.' + e for e in extensions)}"
                self.left_out.add(what, path, remedy_for(file))
        self.files.sort()
        self.shards.sort()

    @property
    def notes(self) -> list[Note]:
        return self.left_out.notes(self.folder)

    def no_samples(self, notes: Iterable[Note] = ()) -> str:
        """The message for a folder without samples."""
        extensions = ", ".join(self.extensions)
        wanted = f"{shown(self.folder)}: no file with extension {extensions}, neither loose nor in *.tar"
        return "; ".join((wanted, *dict.fromkeys(note.text for note in (*self.notes, *notes))))

    def _walk(self) -> Iterator[str]:
        """Paths of all files below the folder. Each folder is read once, however many links lead to it, and under its
        own path rather than a link's; links to the folder itself or an ancestor are skipped.

        Raises OSError if the folder itself cannot be listed."""
        above = {_identity(path) for path in self.folder.resolve().parents} | {_identity(self.folder)}
        seen: set[tuple[int, int]] = set()
        waiting, links = deque([""]), deque[str]()
        while waiting or links:
            linked = not waiting
            below = links.popleft() if linked else waiting.popleft()
            try:
                identity = _identity(self.folder / below)
                if identity in seen or (linked and identity in above):
                    self.left_out.add("links to folders that are read under another name, or lie above", below)
                    continue
                seen.add(identity)
                self.folders[below] = os.stat(self.folder / below).st_mtime_ns
                with os.scandir(self.folder / below) as entries:
                    inside = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                check_shortage(error)
                if not below:
                    raise
                what = f"folders that cannot be listed ({error.strerror})"
                self.left_out.add(what, below, kind="unlistable")
                continue
            for entry in inside:
                path = f"{below}/{entry.name}" if below else entry.name
                if is_litter(entry.name):
                    if not entry.name.startswith("._") and split(entry.name[1:], self.extensions) is not None:
                        self.left_out.add("hidden files", path)
                elif is_folder(entry):
                    (links if entry.is_symlink() else waiting).append(path)
                else:
                    yield path


class FolderSource(FileSource):
    """The files of a listing: `folder/<any sub-folders>/<sample>.<ext>`. Files created by operating systems are
    ignored; other files are skipped and reported in `notes`.

    Raises ValueError if two files of one extension are the same sample, with names that differ only in case, normal
    form or escapes."""

    def __init__(self, listing: Listing, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.folder, self.max_bytes, self.notes = listing.folder, max_bytes, listing.notes
        named = [(key, path) for path in listing.files if (key := split(path, listing.extensions)) is not None]
        if wrapped := wrapping([name for (name, _), _ in named], shown(self.folder.name)):
            text = f"all files lie in {wrapped} below; their names are what follows it"
            self.notes.append(Note("wrapped", shown(self.folder), text))
        self._files: dict[str, dict[str, str]] = {}  # name -> {extension: path below the folder}
        for (name, extension), path in named:
            other = self._files.setdefault(name[len(wrapped) :], {}).setdefault(extension, path)
            if other != path:
                twice = f"{shown(other)} and {shown(path)} are one sample twice"
                raise ValueError(f"{shown(self.folder)}: {twice}; remove one")
        self.names = sorted(self._files)
        if not self.names:
            raise ValueError(listing.no_samples())

    def sample(self, name: str) -> LooseFiles:
        return LooseFiles(self.folder, self._files[name])


def unread(folder: Path, extensions: Sequence[str]) -> str:
    """A message for a folder whose files all have other extensions, with the remedy; empty otherwise."""
    listing = Listing(folder, extensions)
    if listing.files or listing.shards or not (kinds := list(listing.left_out)):
        return ""
    number, example, remedy = max(kinds, key=lambda kind: kind[0])
    kind = Path(example).suffix.lower() or "other"
    remedy = remedy or "to write a modality that reads them: fourm plugins new NAME"
    return f"{shown(folder)}/ is not read: {number} {kind} {'file' if number == 1 else 'files'}; {remedy}"


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Also follows links, unless they are circular."""
    try:
        return entry.is_dir()
    except OSError:
        return False

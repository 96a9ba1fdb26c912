"""Determines the samples of each split, in the same way for all commands.

In: the `data` section of a config, and the folder's `splits.json`, {name: [samples]}, or `held_out`. Out: a `Split`,
which selects among the samples that have files or tokens. `fourm tokenize` stores a copy of `splits.json` with the
tokens, which is read if the raw data no longer exists.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.config import DataConfig
from fourm_engine.data.names_table import Names
from fourm_engine.data.raw.names import plain, say, shown
from fourm_engine.data.raw.pairing import difference
from fourm_engine.data.raw.pipes import open_root
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_engine.data.raw.root import DataRoot, Root, is_pattern
from fourm_engine.files import write_atomically
from fourm_engine.storage.location import Location, Readable, content_of
from fourm_plugins.counting import counted
from fourm_plugins.manager import PluginManager

log = logging.getLogger(__name__)
SPLITS = "splits.json"
#: Maximum size of `splits.json`, enough for about ten million samples.
MAX_SPLITS_BYTES = 1 << 28
_EXTENSION = re.compile(r"\.[a-zA-Z]\w{1,5}$")


def split_names(path: Readable) -> list[str]:
    """Names of the lists in a `splits.json`. Raises ValueError, naming the file."""
    splits = _load(path, "needed")
    if not isinstance(splits, dict):
        raise ValueError(f'{path}: no lists of samples; write {{"train": ["0001", ...], "val": [...]}}')
    return list(splits)


def _load(path: Readable, needed: str) -> Any:
    try:
        return json.loads(content_of(path, MAX_SPLITS_BYTES))  # UTF-8, 16 or 32, with or without a byte order mark
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: {needed}, but cannot be read: {why}") from None


def read_split(path: Readable, split: str) -> frozenset[str]:
    """The samples of one split. Raises ValueError, naming the file."""
    splits = _load(path, f"needed for split {split!r}")
    if not isinstance(splits, dict):
        raise ValueError(f'{path}: no list of samples for split {split!r}; write {{"{split}": ["0001", ...]}}')
    if split not in splits:
        raise ValueError(f"{path}: no list of samples for split {split!r}; it has {', '.join(splits) or 'no splits'}")
    chosen = splits[split]
    if not isinstance(chosen, list):
        raise ValueError(f"{path}: no list of samples for split {split!r}, but {chosen!r:.40}; write a list of names")
    for index, name in enumerate(chosen):
        if not isinstance(name, str):
            raise ValueError(f"{path}: split {split!r}: entry {index} is {name!r:.40}, not a name; write names")
    return frozenset(map(plain, chosen))


def unused_lists(config: DataConfig, key: str) -> tuple[str, str] | None:
    """A warning if the folder of the only training set of `config`, set by `key`, has a `splits.json` that no setting
    uses; otherwise None."""
    root = config.folder
    if not isinstance(root, Path) or (config.train_split, config.val_split) != (None, None):
        return None
    path = (root.parent if is_pattern(root) and not root.is_dir() else root) / SPLITS
    if not path.is_file():
        return None
    if config.held_out is not None:
        same = "data.val to the folder of data.train, data.train_split and data.val_split to lists of it"
        return f"{shown(path)} is not used: data.held_out is set", f"to use it, set {same}, and remove data.held_out"
    field = "data.train_split" if key == "data.train" else f"{key}.split"
    others = "" if config.val is not None or key != "data.train" else "; to hold some out, data.val and data.val_split"
    return f"{shown(path)} is not used: {field} is not set", f"to use it, set {field} to one of its lists{others}"


def copy_splits(root: Root, out: Path) -> None:
    """Write a copy of the splits of a data set, if it has any, into a folder made from it."""
    content = b""
    if isinstance(root, PluginRoot):
        content = json.dumps(root.splits).encode() if root.splits else b""
    else:
        path = root / SPLITS
        if path.exists() if isinstance(path, Location) else path.is_file():
            content = content_of(path, MAX_SPLITS_BYTES)
    if content and (not (out / SPLITS).is_file() or (out / SPLITS).read_bytes() != content):
        write_atomically(out / SPLITS, content)


def samples_of(listed: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Listed name -> the one of `names` that it refers to: itself or, if files are listed, the path without extension
    and modality folder, such as "0001" for "./source/0001.png". Names that match none are absent."""
    known, meant = names if isinstance(names, (Names, Set)) else frozenset(names), {}
    for name in listed:
        path = name.removeprefix("./")
        stem = _EXTENSION.sub("", path)
        forms = (name, path, stem, path.partition("/")[2], stem.partition("/")[2])
        if (sample := next((form for form in forms if form in known), None)) is not None:
            meant[name] = sample
    return meant


def _listed(root: Root, split: str) -> tuple[str, frozenset[str]]:
    """(description of the list, for messages; its samples). Raises ValueError."""
    if isinstance(root, PluginRoot):
        return shown(root), root.split(split)
    return shown(root / SPLITS), read_split(root / SPLITS, split)


def match_split(root: Root, split: str, names: Names) -> frozenset[str]:
    """The names among `names` that a split of `root` lists. Listed samples without files are reported, with similar
    names if there are any. Raises ValueError if none has a file."""
    path, listed = _listed(root, split)
    meant = samples_of(listed, names)
    if files := sorted(name for name, sample in meant.items() if name != sample):
        example = f"{shown(files[0])}, read as {shown(meant[files[0]])}"
        say(f"{path}: split {split} lists files rather than samples: {len(files)}, such as {example}")
    chosen, missing, hint = frozenset(meant.values()), sorted(listed - meant.keys()), ""
    if missing and (close := difference(missing, names.minus(names.among(chosen)))) is not None:
        number, what, name, sample = close
        hint = f"; some differ in {what} alone ({number}), such as {shown(name)} from {shown(sample)}"
    if not chosen:
        all_of_it = f"{counted(len(listed), 'sample')} of split {split!r}"
        raise ValueError(f"{path}: none of the {all_of_it} is in {shown(root)}{hint}")
    if missing:
        some = f"{counted(len(missing), 'sample')} of split {split} without a file"
        say(f"{path}: {some}, such as {shown(missing[0])}{hint}")
    return chosen


def drawn(name: str) -> float:
    """A number in [0, 1) derived from a sample's name; samples below the share are held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / (1 << 48)


@dataclass(frozen=True)
class Split:
    """The samples of `data.train` or of `data.val`. A sample of `data.val` is never trained on, even if it is also in
    `data.train`, unless no training sample would be left, which causes a warning instead."""

    part: str  # "train" or "val", for messages
    root: Root | None
    name: str | None
    #: Tars in the root to read; None: all.
    shards: tuple[str, ...] | None = None
    #: Samples of the split; None: all.
    listed: frozenset[str] | None = None
    #: Samples that are held out of training; None: all.
    held_out: frozenset[str] | None = frozenset()
    #: The share, or the sub-folders, of the samples that are `val` and not `train`.
    share: float | tuple[str, ...] | None = None
    #: Share of the remaining samples to use.
    taken: float = 1.0

    @classmethod
    def from_config(cls, config: DataConfig, *, training: bool, host: PluginManager | None = None) -> Split:
        """`host`: the plugin host, for data opened by a package; by default a new one.

        Raises ValueError for an unreadable split, and for patterns or commands that provide no data."""
        split = cls._whole(config, training, host or PluginManager())
        return replace(split, taken=config.train_share) if training else split

    @classmethod
    def _whole(cls, config: DataConfig, training: bool, host: PluginManager) -> Split:
        path = config.folder if training else config.val
        root = None if path is None else open_root(path, config, host)
        folder, shards = root or (None, None)
        if config.held_out is not None:
            return cls("train" if training else "val", folder, None, shards, share=config.held_out)
        if not training:
            val = None if config.val_split is None else _find(config, "val", config.val_split, folder)
            return cls("val", folder, config.val_split, shards, val)
        train = None if config.train_split is None else _find(config, "train", config.train_split, folder)
        held_out: frozenset[str] | None = frozenset()
        if root is not None and config.val is not None and _overlap(other := open_root(config.val, config, host), root):
            held_out = None if config.val_split is None else _find(config, "val", config.val_split, other.folder)
        elif config.val_split is not None and config.val is None:
            _find(config, "val", config.val_split, None)
        return cls("train", folder, config.train_split, shards, train, held_out)

    def select(self, names: Collection[str], *, quiet: bool = False) -> Collection[str]:
        """Those of `names` that belong to the split and are not held out of it. `quiet`: do not warn of overlaps.

        Raises ValueError if `held_out` or `train_share` leaves none."""
        chosen = self._select(names, quiet)
        if self.taken == 1:
            return chosen
        # A separate draw from that of `held_out`, whose samples would otherwise be chosen first.
        taken = _those(chosen, lambda name: drawn(f"share/{name}") < self.taken)
        if not len(taken):
            total = counted(len(chosen), "sample")
            raise ValueError(f"data.train_share: a share of {self.taken} of {total} is none; raise it")
        return taken

    def _select(self, names: Collection[str], quiet: bool) -> Collection[str]:
        if self.share is not None:
            return self._shared(names)
        chosen = names if self.listed is None else frozenset(samples_of(self.listed, names).values())
        if self.held_out is None:
            overlap = chosen
        else:  # lookups in `names` are fast, or done once for a list
            among = chosen if isinstance(chosen, (Names, Set)) or not self.held_out else frozenset(chosen)
            overlap = frozenset(name for name in samples_of(self.held_out, names).values() if name in among)
        if not overlap:
            return chosen
        everything = len(overlap) == len(chosen)
        if not quiet and everything:
            log.warning(
                "all %d training samples are held-out samples too, since data.val is the same folder: held-out numbers "
                "will say nothing about unseen data; set data.train_split and data.val_split",
                len(chosen),
            )
        elif not quiet:
            log.warning(
                "%d of %d training samples, such as %s, are held-out samples too, since data.val is the same folder; "
                "they are not trained on. Set data.train_split to leave them out yourself",
                len(overlap),
                len(chosen),
                min(overlap),
            )
        if everything:
            return chosen
        return chosen.minus(chosen.among(overlap)) if isinstance(chosen, Names) else frozenset(chosen) - set(overlap)

    def _shared(self, names: Collection[str]) -> Collection[str]:
        assert self.share is not None
        val = self.part == "val"
        if isinstance(share := self.share, float):
            chosen = _those(names, lambda name: (drawn(name) < share) == val)
        else:
            below = tuple(f"{plain(folder)}/" for folder in share)
            chosen = _those(names, lambda name: name.startswith(below) == val)
        if not len(chosen):  # tokens are of one part only, so the other is empty there
            which = "none" if val or not len(names) else "all"
            total = counted(len(names), "sample")
            raise ValueError(f"data.held_out: {self._said()} are {which} of {total}; choose another")
        return chosen

    def _said(self) -> str:
        if isinstance(self.share, float):
            return f"a share of {self.share}"
        return f"those in {', '.join(self.share or ())}"

    def describe(self, samples: int, where: object) -> str:
        """A line with the number of samples used, and their split."""
        named = "all samples" if self.name is None else f"split {self.name!r}"
        if self.share is not None:
            named = f"held out: {self._said()}" if self.part == "val" else f"all but {self._said()}"
        named = named if self.taken == 1 else f"a share of {self.taken} of {named}"
        return f"{self.part}: {counted(samples, 'sample')} ({named} of {where})"


def _those(names: Collection[str], chosen: Callable[[str], bool]) -> Collection[str]:
    """Those of `names` that satisfy `chosen`; for a table, without an object per name."""
    if not isinstance(names, Names):
        return frozenset(filter(chosen, names))
    return Names(names.table, names.rows[np.fromiter(map(chosen, names), bool, len(names))])


def _overlap(one: DataRoot, other: DataRoot) -> bool:
    """Whether both may contain the same file."""
    if isinstance(one.folder, PluginRoot) and isinstance(other.folder, PluginRoot):
        return one.folder == other.folder
    if _absolute(one.folder) != _absolute(other.folder):
        return False
    return one.shards is None or other.shards is None or bool({*one.shards} & {*other.shards})


def _absolute(folder: Root) -> str:
    return str(folder.resolve() if isinstance(folder, Path) else folder)


def _find(config: DataConfig, part: str, split: str, root: Root | None) -> frozenset[str]:
    if config.tokens is not None and (root is None or (isinstance(root, Path) and not root.is_dir())):
        return read_split(config.at(config.tokens / part) / SPLITS, split)
    if root is None:
        raise ValueError(f"data.{part}_split is {split!r}, but data.{part} is not set; name the folder with {SPLITS}")
    return _listed(root, split)[1]

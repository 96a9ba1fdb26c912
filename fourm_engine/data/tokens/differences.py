"""Determines which samples of a shard to tokenize again, because their files or views have changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.prepare import content_digest
from fourm_engine.data.tokens.shards import digest
from fourm_engine.data.tokens.tally import Tally
from fourm_engine.data.tokens.token_shards import Made


@dataclass
class Differences:
    """The files of one modality, compared with those that the tokens of one shard were made from."""

    before: dict[str, Made]
    #: Digest of size and time of the existing files.
    stamps: dict[str, int]
    #: Samples to encode, and whether they had tokens before.
    todo: dict[str, bool]
    #: Samples whose file no longer exists.
    vanished: set[str] = field(default_factory=set)
    #: Samples whose tokens were made through other views than the recorded ones.
    outdated: set[str] = field(default_factory=set)

    @classmethod
    def find(
        cls, data: AlignedData, modality: str, names: Sequence[str], before: dict[str, Made], verify: bool
    ) -> Differences:
        differences, having = cls(before, {}, {}), frozenset(data.having(modality).among(names))
        for name in names:
            known = before.get(name)
            if name not in having:
                if known is not None and not data.exists(name, modality):
                    differences.vanished.add(name)
                continue
            stamp = differences.stamps[name] = digest(data.stamp(name, modality))
            if known is None:
                differences.todo[name] = False
            elif verify or known.stamp != stamp:
                try:
                    same = content_digest(data.files(name, modality)) == known.content
                except BadFile:
                    same = False  # encoding it reports why
                if not same:
                    differences.todo[name] = True
        return differences

    def look_through(self, views_of: Mapping[str, int]) -> None:
        """Add samples that were made through other views. views_of: sample -> digest of its views."""
        for name, made in self.before.items():
            if made.view != views_of.get(name, 0):
                self.todo |= {name: True} if name in self.stamps else {}
                self.outdated.add(name)

    def kept(self, names: Sequence[str], *, drop_vanished: bool) -> dict[str, Made]:
        """The unchanged rows, with current stamps: a file may have been touched without a change of content."""
        dropped = self.outdated | self.todo.keys() | (self.vanished if drop_vanished else set())
        return {
            name: replace(self.before[name], stamp=self.stamps.get(name, self.before[name].stamp))
            for name in names
            if name in self.before and name not in dropped
        }

    def count(self, tally: Tally, encoded: Collection[str]) -> None:
        changed = sum(self.todo[name] for name in encoded)
        tally.changed += changed
        tally.added += len(encoded) - changed
        tally.unchanged += sum(name in self.stamps and name not in self.todo for name in self.before)
        tally.vanished += len(self.vanished)

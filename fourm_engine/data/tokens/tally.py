"""Counts what `fourm tokenize` did: the report of one split and process."""

from __future__ import annotations

from dataclasses import dataclass, field

from fourm_plugins.counting import counted


@dataclass
class Tally:
    """Counts samples of one modality by what happened to their tokens."""

    #: Encoded: without tokens before; with changed content, or through other views.
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    #: Tokens without a file: kept, or dropped on request.
    vanished: int = 0
    #: Files that cannot be used.
    left_out: int = 0
    #: Number of shards written.
    written: int = 0

    @property
    def tokenized(self) -> int:
        """Samples with files and tokens."""
        return self.added + self.changed + self.unchanged


@dataclass
class TokenizeReport:
    """The contents of the shards of this rank."""

    samples: int = 0
    modalities: dict[str, Tally] = field(default_factory=dict)
    #: "where: modality: reason" of every skipped file.
    bad: list[str] = field(default_factory=list)
    #: Number of those that were only counted, not logged.
    unnamed: list[str] = field(default_factory=list)
    #: Number of shards (of one modality each) examined.
    shards: int = 0
    #: Seconds spent on encoding, including reading and writing.
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Modality -> samples with files and tokens."""
        return {name: tally.tokenized for name, tally in self.modalities.items()}

    @property
    def encoded(self) -> int:
        """Number of samples, counting each modality."""
        return sum(tally.added + tally.changed for tally in self.modalities.values())

    @property
    def written(self) -> int:
        """Number of shards, of one modality each."""
        return sum(tally.written for tally in self.modalities.values())

    @property
    def samples_per_second(self) -> float:
        """Samples encoded per second, counting each modality."""
        return self.encoded / self.seconds if self.seconds else 0.0

    def lines(self, what: str, *, pruned: bool = False) -> list[str]:
        """A summary line, and one per modality, omitting zero counts."""
        parts = [f"{self.written} of {counted(self.shards, 'shard')} written"]
        parts += [f"{self.samples_per_second:,.0f} samples/s"] if self.encoded else []
        parts += [f"{counted(len(self.bad), 'file')} left out"] if self.bad else []
        lines = [f"{what}: {counted(self.samples, 'sample')}; {', '.join(parts)}"]
        for name, tally in self.modalities.items():
            kept = "dropped" if pruned else "their tokens are kept; --prune drops them"
            counts = {
                "added": tally.added,
                "changed": tally.changed,
                "unchanged": tally.unchanged,
                f"vanished ({kept})": tally.vanished,
                "left out": tally.left_out,
            }
            told = ", ".join(f"{count} {fate}" for fate, count in counts.items() if count)
            lines.append(f"{what}, {name}: {told or 'no files'}; {counted(tally.written, 'shard')} written")
        return lines

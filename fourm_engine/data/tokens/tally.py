"""What `fourm tokenize` did, counted: the report of one split and process."""

from __future__ import annotations

from dataclasses import dataclass, field

from fourm_plugins.counting import counted


@dataclass
class Tally:
    """Samples of one modality: what happened to their tokens."""

    #: Encoded: without tokens before; with those of another content, or through other views.
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    #: Tokens without a file, kept, or dropped where that was requested.
    vanished: int = 0
    #: Files that cannot be used.
    left_out: int = 0
    #: Shards written.
    written: int = 0

    @property
    def tokenized(self) -> int:
        """Samples with files and tokens."""
        return self.added + self.changed + self.unchanged


@dataclass
class TokenizeReport:
    """What the shards of this rank hold."""

    samples: int = 0
    modalities: dict[str, Tally] = field(default_factory=dict)
    #: "where: modality: reason" of every file left out.
    bad: list[str] = field(default_factory=list)
    #: Those of them that were only counted when they were met.
    unnamed: list[str] = field(default_factory=list)
    #: Shards (one modality each) looked at.
    shards: int = 0
    #: Of encoding and all that goes with it.
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Modality -> samples with files and tokens."""
        return {name: tally.tokenized for name, tally in self.modalities.items()}

    @property
    def encoded(self) -> int:
        """Samples, counting each modality."""
        return sum(tally.added + tally.changed for tally in self.modalities.values())

    @property
    def written(self) -> int:
        """Shards, one modality each."""
        return sum(tally.written for tally in self.modalities.values())

    @property
    def samples_per_second(self) -> float:
        """Samples encoded a second, counting each modality."""
        return self.encoded / self.seconds if self.seconds else 0.0

    def lines(self, what: str, *, pruned: bool = False) -> list[str]:
        """A line for all, and one a modality, without what did not happen."""
        parts = [f"{self.written} of {counted(self.shards, 'shard')} written"]
        parts += [f"{self.samples_per_second:.0f} samples/s"] if self.encoded else []
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

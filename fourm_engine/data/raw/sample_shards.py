"""WebDataset shards: tars in the root of a data set that contain all modalities of their samples.

In: the paths of members. Out: the modality and the sample of each. A member is parsed as, in this order,

- `<sample>.<source>.<extension>`, such as `0001.rgb.jpg`, or with the name of the modality;
- `<source>/<sample>.<extension>`, as in an archive of a folder with a sub-folder per modality;
- `<sample>.<extension>`, if only one modality reads files with this extension. As in WebDataset, the extension is then
  everything after the first dot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fourm_engine.data.raw.names import plain
from fourm_engine.data.raw.notes import LeftOut, Note
from fourm_engine.data.raw.shard_scan import Scan, Scanned
from fourm_engine.data.raw.tar import Shards, leave_out, two_files
from fourm_engine.data.raw.tar_members import Content
from fourm_plugins.spec import ModalitySpec

Key = tuple[str, tuple[str, ...]]  # source, extensions


class Claim(NamedTuple):
    """The files that modalities read from a source. Those with the same source and extensions read the same files."""

    source: str
    extensions: tuple[str, ...]
    #: Names of the modalities.
    modalities: tuple[str, ...]

    @property
    def key(self) -> Key:
        return self.source, self.extensions


def claims_of(specs: Iterable[ModalitySpec]) -> list[Claim]:
    names: dict[Key, list[str]] = {}
    for spec in specs:
        names.setdefault(spec.files, []).append(spec.name)
    return [Claim(*key, tuple(sorted(names[key]))) for key in sorted(names)]


def others_of(key: Key, keys: Iterable[Key]) -> tuple[str, ...]:
    """Extensions of the same source that other claims read."""
    return tuple(sorted({e for source, extensions in keys if source == key[0] for e in extensions} - {*key[1]}))


class Member(NamedTuple):
    """A member that is a sample's file."""

    claims: tuple[int, ...]
    sample: str
    extension: str


class Sorter:
    """Assigns members to `claims`."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._marked: dict[str, dict[int, str]] = {}  # ending of a file's name -> claim -> extension
        self._bare: dict[str, dict[int, str]] = {}
        self._folders: dict[str, dict[str, dict[int, str]]] = {}
        self._sources = [claim.source for claim in claims]
        named: dict[str, dict[int, str]] = {}
        for number, claim in enumerate(claims):
            for extension in claim.extensions:
                ending = f".{extension.lower()}"
                self._bare.setdefault(ending, {})[number] = extension
                self._folders.setdefault(claim.source, {}).setdefault(ending, {})[number] = extension
                self._marked.setdefault(f".{claim.source.lower()}{ending}", {})[number] = extension
                for name in claim.modalities:
                    named.setdefault(f".{name.lower()}{ending}", {})[number] = extension
        for ending, claimed in named.items():
            self._marked.setdefault(ending, claimed)  # a source of this name has priority
        #: Whether any member was assigned by its extension only, which depends on all claims.
        self.by_extension = False

    def sort(self, path: str) -> Member | str:
        """The sample and extension of a member, or why it has none; "" if no claim reads the file."""
        folder, slash, file = path.rpartition("/")
        lowered = file.lower()
        dots = [at for at, character in enumerate(lowered) if character == "." and at]
        top = path.partition("/")[0] if slash else ""
        for at in dots:  # the longest ending first
            if claimed := self._marked.get(lowered[at:]):
                return self._member(claimed, f"{folder}/{file[:at]}" if folder else file[:at])
        if top in self._folders:
            for at in dots:
                if claimed := self._folders[top].get(lowered[at:]):
                    return self._member(claimed, path.removeprefix(f"{top}/")[: at - len(file)])
            return ""
        if dots and (claimed := self._bare.get(lowered[dots[0] :])):
            self.by_extension = True
            if len(sources := sorted({self._sources[number] for number in claimed})) > 1:
                return f"members that {' and '.join(sources)} could be"
            return self._member(claimed, f"{folder}/{file[: dots[0]]}" if folder else file[: dots[0]])
        return ""

    @staticmethod
    def _member(claimed: dict[int, str], sample: str) -> Member:
        """`claimed`: claim -> extension."""
        return Member(tuple(claimed), plain(sample), next(iter(claimed.values())))


class SampleShards(NamedTuple):
    """The samples of the shards, for each claim that has any."""

    sources: dict[Key, Shards]
    notes: list[Note]
    by_extension: bool


def open_sample_shards(
    root: Path, shards: Iterable[str], claims: Sequence[Claim], *, max_bytes: int, scan: Scan
) -> SampleShards:
    """Read each `root/<shard>` and assign its members.

    Raises ValueError, naming the shard, as `TarSource` does."""
    sorter, left_out = Sorter(claims), LeftOut()
    sources = [Shards(root, max_bytes) for _ in claims]
    for shard in shards:
        scanned = scan(root / shard)
        above, slash, _ = plain(shard).rpartition("/")
        samples: list[dict[tuple[str, str], Content]] = [{} for _ in claims]
        for clean in scanned.samples:
            member = sorter.sort(clean)
            if isinstance(member, str):
                _leave_out(shard, clean, scanned, member, claims, left_out)
                continue
            key = above + slash + member.sample, member.extension
            for number in member.claims:
                if key in samples[number]:
                    raise ValueError(two_files(root / shard, *key))
                samples[number][key] = scanned.contents[clean]
        for number, files in enumerate(samples):
            if files:
                sources[number].add(shard, scanned.stamp, files)
    for source in sources:
        source.finish()
    with_samples = {claim.key: source for claim, source in zip(claims, sources) if source.names}
    return SampleShards(with_samples, left_out.notes(root), sorter.by_extension)


def _leave_out(
    shard: str, clean: str, scanned: Scanned, unclear: str, claims: Sequence[Claim], left_out: LeftOut
) -> None:
    if unclear and clean not in scanned.linked:
        source, extension = claims[0].source, clean.rpartition(".")[2]
        for claim in claims:
            if extension.lower() in (e.lower() for e in claim.extensions):
                source = claim.source
                break
        remedy = f"name them as in 0001.{source}.{extension}, or list in modalities.select what they are"
        left_out.add(unclear, f"{shard}:{clean}", remedy, kind="unclear")
    elif not unclear:
        leave_out(shard, clean, scanned, "members of no modality that takes part", left_out)

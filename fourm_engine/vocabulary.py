"""Vocabulary: the rows of one embedding table and one output matrix, a slice for each modality.

In: the specs of the active modalities. Out: for each modality its index (the `mod` of a batch), its rows [start, stop),
and its offset in the table of positions. Sorted by name when first built; append-only afterwards, so that installing
another plugin never moves existing rows. Stored by name in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fourm_plugins.counting import counted
from fourm_plugins.settings import flat
from fourm_plugins.spec import Layout, ModalitySpec


@dataclass(frozen=True)
class Entry:
    """One modality's slice. Continuous inputs own no rows: start == stop. `position_grid`: (rows, columns) of the grid
    that the model learned positions for, if it differs from the layout's, whose positions are then spread over it.
    `patch`: (rows, columns) in pixels of a patch of a continuous grid."""

    name: str
    index: int
    start: int
    stop: int
    layout: Layout
    patch_dim: int
    position_grid: tuple[int, int] | None = None
    patch: tuple[int, int] | None = field(default=None, compare=False)
    #: Ranges of the modality's ids, each the steps of one quantity (`Tokenizer.ordinal_ranges`), for decoding.
    ordinal_ranges: tuple[range, ...] = field(default=(), compare=False, repr=False)

    @property
    def size(self) -> int:
        return self.stop - self.start


class Vocabulary:
    """Immutable; `extend` returns another one."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries: tuple[Entry, ...] = tuple(entries)
        self._by_name = {entry.name: entry for entry in self.entries}
        if len(self._by_name) != len(self.entries):
            raise ValueError("two entries of the vocabulary have the same name")

    @classmethod
    def build(cls, specs: Iterable[ModalitySpec]) -> Vocabulary:
        return cls(()).extend(specs)

    def extend(self, specs: Iterable[ModalitySpec]) -> Vocabulary:
        """Append the modalities not yet present, sorted by name; those present must be unchanged."""
        specs = list(specs)
        check_token_spaces(specs)
        entries, start = list(self.entries), self.size
        for spec in sorted(specs, key=lambda spec: spec.name):
            size = spec.token_space.size if spec.token_space else 0
            rows = start, start + size
            entry = Entry(spec.name, len(entries), *rows, spec.layout, spec.patch_dim, patch=spec.pixel_patch)
            if spec.name in self:
                known = self[spec.name]
                rows = known.start, known.start + size
                grid = known.position_grid
                if replace(entry, index=known.index, start=rows[0], stop=rows[1], position_grid=grid) != known:
                    raise ValueError(
                        f"modality {spec.name!r} changed since the vocabulary was built: it had {known.size} ids in "
                        f"{known.layout}, now {size} in {spec.layout}; restore its settings or name it anew"
                    )
                continue
            entries.append(entry)
            start += size
        return Vocabulary(entries)

    def resized(self, specs: Iterable[ModalitySpec]) -> Vocabulary:
        """The same rows with the layouts of `specs`: other grids, whose positions are spread over the existing ones, or
        other lengths. Raises ValueError for a modality that is not there, or that differs in other respects."""
        by_name = {spec.name: spec for spec in specs}
        for name in by_name:
            self[name]  # raises ValueError
        entries = []
        for known in self:
            spec = by_name.get(known.name)
            if spec is None:
                entries.append(known)
                continue
            size = spec.token_space.size if spec.token_space else 0
            was, now = (known.layout.kind, known.size, known.patch_dim), (spec.layout.kind, size, spec.patch_dim)
            if was != now:
                raise ValueError(
                    f"modality {known.name!r} is a {now[0]} of {now[1]} ids, {now[2]} numbers a patch, but the model "
                    f"knows a {was[0]} of {was[1]} ids, {was[2]} numbers a patch; restore its settings"
                )
            grid, layout = known.position_grid, spec.layout
            if known.layout.kind == "grid" and layout.kind == "grid":
                trained = grid or (known.layout.height, known.layout.width)
                grid = None if trained == (layout.height, layout.width) else trained
            entries.append(replace(known, layout=layout, position_grid=grid))
        return Vocabulary(entries)

    def with_ordinal_ranges(self, ordinal_ranges: Mapping[str, Sequence[range]]) -> Vocabulary:
        """The same rows, with the ranges of each modality's ids that are the steps of one quantity."""
        return Vocabulary(replace(entry, ordinal_ranges=tuple(ordinal_ranges.get(entry.name, ()))) for entry in self)

    def __repr__(self) -> str:
        entries = ", ".join(f"{e.name} [{e.start}, {e.stop})" if e.size else f"{e.name} (continuous)" for e in self)
        return f"<Vocabulary of {counted(self.size, 'row')}: {entries}>"

    @property
    def size(self) -> int:
        """Rows of the tables."""
        return max((entry.stop for entry in self.entries), default=0)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._by_name[name]
        except KeyError:
            raise ValueError(f"no modality {name!r} in the vocabulary; it has {', '.join(self.names)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_json(self) -> list[dict]:
        return [
            {
                "name": e.name,
                "start": e.start,
                "stop": e.stop,
                "layout": e.layout.model_dump(mode="json"),
                "patch_dim": e.patch_dim,
                **({"position_grid": list(e.position_grid)} if e.position_grid else {}),
            }
            for e in self.entries
        ]


def check_token_spaces(specs: Iterable[ModalitySpec]) -> None:
    """Check that a token space belongs to one modality, unless all its users declare it shared, with the same
    properties."""
    users: dict[str, ModalitySpec] = {}
    for spec in specs:
        if spec.token_space is None:
            continue
        first = users.setdefault(spec.token_space.name, spec)
        if first is spec:
            continue
        space = spec.token_space
        if not (space.shared and first.token_space and first.token_space.shared):
            raise ValueError(
                f"token space {space.name!r} is owned twice, by {first.name} and {spec.name}; mark it shared in both "
                f"(pictures of several sizes: their setting `space`) or give one of them another name"
            )
        if (first.token_space, first.tokenizer) != (space, spec.tokenizer):
            one, other = (flat(s.model_dump(mode="json", include={"token_space", "tokenizer"})) for s in (first, spec))
            differing = (
                f"{key.removeprefix('tokenizer.').removeprefix('settings.')} of {first.name} is {one.get(key)!r}, "
                f"of {spec.name} {other.get(key)!r}"
                for key in sorted(one.keys() | other.keys())
                if one.get(key) != other.get(key)
            )
            raise ValueError(
                f"{first.name} and {spec.name} share the token space {space.name!r} but describe it differently: "
                f"{'; '.join(differing)}; set them alike in modalities.settings, or leave one out of modalities.select"
            )

"""From what a user gives (pictures, sentences, boxes, files, token ids) to what the encoder is shown.

In: {name: what a user holds, `Ids`, `Typed` or `Condition`}. Out: a `Sample`, and under which modality each name is
shown. What a user holds becomes a value by the modality's one door (`Modality.value`), and goes on as in training: one
centre view for all that is aligned, augment, normalise, tokenizer. The name of a data source, given a raw value, is
shown as the continuous modality that reads this source, if the model has one (it loses nothing to a tokenizer), and as
tokens otherwise. Arrays are values, never token ids: those are `Ids`. Errors name what a user named.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm_engine.data.raw.aspect import same_aspect
from fourm_engine.data.views import ViewDrawer, view_of
from fourm_engine.generate.masks import region_tokens, tokens_within, weights_of
from fourm_engine.generate.shown import Kept, Region, Sample, check_kept, kept_pixels, without_halo
from fourm_engine.masking.pack import Shown
from fourm_plugins.arrays import check_array
from fourm_plugins.door import as_array, describe, looks_like_path
from fourm_plugins.errors import SampleError
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading
from fourm_plugins.spec import Grid, ModalitySpec
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer
from fourm_plugins.view import View


class Ids:
    """Token ids of one modality, in place of its value: `Ids(out[name].tokens)`. `ids`: integers (n,), a list, an array
    or a tensor. Raises ValueError for anything else."""

    def __init__(self, ids: Any) -> None:
        array = as_array(ids)
        array = np.asarray(ids) if array is None and isinstance(ids, (list, tuple, range)) else array
        if array is not None and not array.size and array.ndim == 1:
            array = array.astype(np.int64)  # an empty list has no type
        if array is None or array.ndim != 1 or array.dtype.kind not in "iu":
            given = describe(ids if array is None else array)
            raise ValueError(f"token ids are integers (n,); given: {given}")
        self.ids = array.astype(np.int64)

    def __repr__(self) -> str:
        return f"Ids({self.ids.tolist()})"


@dataclass(frozen=True)
class Typed:
    """Text that is meant as text, whatever it looks like: `Typed("and/or.txt")` is no path."""

    text: str


@dataclass(frozen=True, eq=False)
class Condition:
    """A value (or `Ids`) of which only a part counts, or with a guidance weight.

    `keep`: bool, True where the value is known: (h, w) of the token grid, (n,) tokens, or (H, W) of the value's pixels;
    then a token counts as known when all its pixels are. Where the modality is a target, too, what is known stays and
    the rest is generated; elsewhere only the known tokens are shown.

    `weight`: wᵢ in u + Σ wᵢ (cᵢ − u), of the whole, or of the tokens that a `region` touches: a box (x0, y0, x1, y1) in
    [0, 1] of the picture, a bool mask as `keep`, or a picture, white there; what lies outside is plain. Several regions
    are a list, with a list of as many weights: `Condition(value, weight=[2, -1], region=[box, mask])`.

    `halo`, of an edit: so many tokens around what is unknown are generated anew, too, though pixels that are known
    stay; then it may be that no token is known."""

    value: Any
    keep: np.ndarray | None = None
    weight: float | Sequence[float] | None = None
    halo: int | None = None
    region: Any = None

    def __post_init__(self) -> None:
        weights_of(self.weight, self.region)


@dataclass(frozen=True)
class _Given:
    name: str  # as a user gave it
    modality: Modality
    value: Any  # raw value, or None
    ids: np.ndarray | None
    keep: np.ndarray | None
    halo: int | None
    weights: list[tuple[float, Any]]


class InputReader:
    """`find(name)` gives a modality or raises the ValueError that tells why there is none."""

    def __init__(
        self, modalities: Mapping[str, Modality], tokenizers: Mapping[str, Tokenizer], find: Callable[[str], Modality]
    ) -> None:
        self.modalities = modalities
        self.tokenizers = tokenizers
        self.find = find
        self.drawer = ViewDrawer(modalities)
        #: Name -> modality that its values are shown as, where `instance` cannot tell by the specs.
        self.aliases: dict[str, str] = {}

    def read(
        self, inputs: Mapping[str, Any], targets: Collection[str], *, dry: bool = False
    ) -> tuple[Sample, dict[str, str]]:
        """The sample, and {name as given: modality it is shown as}. `dry`: without running a network; then ids of grids
        and vectors only differ where arrays do."""
        given, shown_as, sample = dict[str, _Given](), dict[str, str](), Sample()
        for name, value in inputs.items():
            condition = value if isinstance(value, Condition) else Condition(value)
            part = self._resolve(name, condition, targets)
            instance = part.modality.name
            if instance in given:
                raise ValueError(f"{given[instance].name!r} and {name!r} are both shown as {instance!r}; give one")
            given[instance], shown_as[name] = part, instance
            if part.weights and instance in targets:
                raise ValueError(f"{name!r} is a target: what is known of it has no weight; leave weight out")
        views = sample.views = self.drawer.draw("", 0, _aspects(given))
        for name, part in given.items():
            view, sequence = view_of(part.modality.spec, views, 0), part.modality.spec.layout.kind == "sequence"
            shown = self._show(part, view, dry)
            if part.keep is not None:
                what = "keep" if part.halo is None else "the mask"
                tokens = tokens_within(part.name, part.keep, part.value, part.modality.spec, view, what=what)
                check_kept(part.name, tokens, part.modality.spec, edit=part.halo is not None)
                tokens = without_halo(tokens, part.modality.spec, part.halo or 0)
                shown = shown.at(tokens)
                if name in targets and part.ids is None:
                    pixels = kept_pixels(part.keep, part.modality.spec, view)
                    if pixels.any():
                        sample.kept[name] = Kept(part.modality.augment(part.value, view), pixels)
                if not tokens.any():  # an edit of all of it: as if it were not given
                    del shown_as[part.name]
                    continue
            elif name in targets and not sequence:
                raise ValueError(
                    f"{part.name!r} is given in full and a target, too; leave it out of one, or say with "
                    f"Condition(value, keep=mask) which part is known"
                )
            if name in targets:  # of a sequence: its beginning, to be continued
                sample.known[name] = shown
                if sequence and part.ids is None:
                    text = part.value if isinstance(part.value, str) else part.modality.augment(part.value, view)
                    if isinstance(text, str):
                        sample.kept[name] = Kept(text, None)
            else:
                sample.shown[name] = self.closed(name, shown.ids) if sequence else shown
                self._weigh(sample, part, view)
        return sample, shown_as

    def _weigh(self, sample: Sample, part: _Given, view: View) -> None:
        """The weights of what is shown, of the whole or of regions."""
        name, taken = part.modality.name, np.zeros(0, np.int64)
        for number, (weight, region) in enumerate(part.weights, 1):
            if region is None:
                sample.weights[name] = weight
                continue
            tokens = np.flatnonzero(region_tokens(part.name, region, part.value, part.modality.spec, view))
            which = f"{part.name!r}: region" + (f" {number}" if len(part.weights) > 1 else "")
            if not np.isin(tokens, sample.shown[name].pos).any():
                raise ValueError(f"{which} holds nothing of what the model sees, the picture's centre; move it there")
            if np.isin(tokens, taken).any():
                raise ValueError(f"{which} has tokens of another region; draw them apart")
            taken = np.append(taken, tokens)
            sample.regions[f"{name} (region {number})"] = Region(name, tokens, weight)

    def closed(self, name: str, ids: np.ndarray) -> Shown:
        """A whole sequence as training shows it: with its end marker, cut at the most tokens it may have."""
        tokenizer = self.tokenizers[name]
        assert isinstance(tokenizer, TextTokenizer)
        return Shown.tokens(np.append(ids, tokenizer.end_id)[: self.modalities[name].spec.layout.num_tokens])

    def _resolve(self, name: str, condition: Condition, targets: Collection[str]) -> _Given:
        ids = condition.value.ids if isinstance(condition.value, Ids) else None
        modality = self.instance(name, raw=ids is None and not (condition.keep is not None and name in targets))
        spec = modality.spec
        if ids is not None:
            _check_ids(name, ids, spec)
        if not spec.input and spec.name not in targets:
            raise ValueError(f"{name!r} is a target only and cannot be given; use {', '.join(self.input_names)}")
        if condition.keep is not None and not isinstance(spec.layout, Grid):
            raise ValueError(f"{name!r} is a {spec.layout.kind}; keep masks are for grids. Leave keep out")
        value = None if ids is not None else _value(name, modality, condition.value)
        keep = None if condition.keep is None else np.asarray(condition.keep)
        weights = weights_of(condition.weight, condition.region)
        return _Given(name, modality, value, ids, keep, condition.halo, weights)

    def instance(self, name: str, *, raw: bool) -> Modality:
        """What is shown of `name`, of a value (`raw`) or of ids. Raises ValueError for a name without a modality."""
        if raw and name in self.aliases:
            return self.modalities[self.aliases[name]]
        readers = [m for m in self.modalities.values() if m.spec.source == name and m.spec.input]
        if name not in self.modalities and readers:
            return next((m for m in readers if m.spec.continuous), readers[0])
        modality = self.find(name)
        # Of several instances of a modality, `a` and `a@448`, the one without "@" stands for its files.
        if raw and not modality.spec.continuous and "@" not in name:
            for spec in (
                other.spec for other in self.modalities.values() if other.spec.input and other.spec.continuous
            ):
                if (spec.files, spec.array) == (modality.spec.files, modality.spec.array):
                    return self.modalities[spec.name]
        return modality

    def _show(self, part: _Given, view: View, dry: bool) -> Shown:
        modality, spec, ids = part.modality, part.modality.spec, part.ids
        if ids is None:
            with _blame(part.name, part.value):
                array = modality.normalise(_augmented(modality, part.value, view))
                check_array(spec, array)
            if spec.continuous:
                return Shown.continuous(spec, np.asarray(array))
            if dry and isinstance(array, np.ndarray):
                return Shown.tokens(np.full(spec.layout.num_tokens, zlib.crc32(array.tobytes())))
            ids = self.tokenizers[spec.name].encode([array])[0]
        tokenizer = self.tokenizers[spec.name]
        if isinstance(tokenizer, TextTokenizer) and len(ids) and ids[-1] == tokenizer.end_id:
            ids = ids[:-1]
        return Shown.tokens(ids)

    @property
    def input_names(self) -> list[str]:
        return [name for name, m in self.modalities.items() if m.spec.input]


def _value(name: str, modality: Modality, given: Any) -> Any:
    """By the modality's door."""
    with _blame(name, given), reading(lambda: f"input {name!r}"):
        if isinstance(given, Typed):
            return modality.from_text(given.text)
        try:
            return modality.value(given)
        except SampleError as error:
            path = isinstance(given, str) and looks_like_path(given, modality.spec.extensions, typed=True)
            if modality.typed and path:
                hint = "text that looks like a path is given as Typed(...), on the command line as text:..."
                raise SampleError(f"{error}; {hint}") from error
            raise


def _augmented(modality: Modality, value: Any, view: View) -> Any:
    # A bare string is what a sequence is after augment: one sentence, not alternatives, and nothing to crop.
    literal = modality.spec.layout.kind == "sequence" and isinstance(value, str)
    return value if literal else modality.augment(value, view)


@contextmanager
def _blame(name: str, given: Any) -> Iterator[None]:
    """Name the input, as a user did, in what its plugin raises."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"input {name!r}: {' '.join(str(error).split())}{_hint(given)}") from error
    except (TypeError, AttributeError, IndexError, KeyError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"input {name!r}: {describe(given)} is no value of it ({why}){_hint(given)}") from error


def _hint(given: Any) -> str:
    """For what may have been meant as ids."""
    row = isinstance(given, (list, tuple)) and bool(given) and all(type(x) is int for x in given)
    if not row and len(getattr(given, "shape", ())) == 1:
        row = str(getattr(given, "dtype", "")).removeprefix("torch.").startswith(("int", "uint"))
    return "; token ids are given as Ids(...)" if row else ""


def _check_ids(name: str, ids: np.ndarray, spec: ModalitySpec) -> None:
    if spec.token_space is None:
        raise ValueError(f"{name!r} is continuous input and has no token ids; give its value")
    wrong = ids[(ids < 0) | (ids >= spec.token_space.size)]
    if len(wrong):
        raise ValueError(f"{name!r}: id {wrong[0]} is outside [0, {spec.token_space.size})")
    n, sequence = spec.layout.num_tokens, spec.layout.kind == "sequence"
    if len(ids) > n if sequence else len(ids) != n:
        raise ValueError(f"{name!r}: {len(ids)} ids, but it has {'at most ' if sequence else ''}{n} tokens")


def _aspects(given: Mapping[str, _Given]) -> dict[str, float]:
    """Alignment group -> width / height of its picture, on which all raw values of the group must agree."""
    aspects: dict[str, float] = {}
    first: dict[str, str] = {}
    for part in given.values():
        group = part.modality.spec.alignment
        if part.ids is not None or group is None:
            continue
        with _blame(part.name, part.value):
            aspect = part.modality.aspect(part.value)
        if aspect is None:
            continue
        if not same_aspect(aspect, aspects.setdefault(group, aspect)):
            raise ValueError(
                f"{first[group]!r} and {part.name!r} are aligned, but their pictures have width / height of "
                f"{aspects[group]:.3f} and {aspect:.3f}; give crops of one picture"
            )
        first.setdefault(group, part.name)
    return aspects

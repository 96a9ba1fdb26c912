"""Reads a user's inputs (pictures, text, boxes, files, token ids) into encoder inputs.

In: {name: value, `Ids`, `Typed` or `Condition`}. Out: a `Sample`, and for each name the modality that represents it.
`Modality.value` reads the value; everything after that is as in training: one centre view for all aligned modalities,
augment, normalise, encode. A raw value of a data source becomes input of the continuous modality that reads that
source, if the model has one (no tokenizer loses information), and tokens otherwise. Arrays are always values; token ids
come as `Ids`. Errors use the user's names.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm_engine.data.raw.aspect import same_aspect
from fourm_engine.data.views import ViewDrawer, view_of
from fourm_engine.generate.input_types import Condition, Ids, Typed
from fourm_engine.generate.masks import region_tokens, tokens_within, weights_of
from fourm_engine.generate.sample import Kept, Region, Sample, check_kept, kept_pixels, without_halo
from fourm_engine.masking.pack import Shown
from fourm_plugins import calls
from fourm_plugins.arrays import check_array
from fourm_plugins.errors import SampleError, one_line
from fourm_plugins.inputs import describe, looks_like_path
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading
from fourm_plugins.spec import Grid, ModalitySpec
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer
from fourm_plugins.view import View


@dataclass(frozen=True)
class _Given:
    name: str  # as the user gave it
    modality: Modality
    value: Any  # raw value, or None
    ids: np.ndarray | None
    keep: np.ndarray | None
    halo: int | None
    weights: list[tuple[float, Any]]


class InputReader:
    """Reads the inputs of samples. `find(name)` returns a modality, or raises a ValueError that says why there is
    none."""

    def __init__(
        self, modalities: Mapping[str, Modality], tokenizers: Mapping[str, Tokenizer], find: Callable[[str], Modality]
    ) -> None:
        self.modalities = modalities
        self.tokenizers = tokenizers
        self.find = find
        self.drawer = ViewDrawer(modalities)
        #: Name -> the modality that represents its values, where `instance` cannot infer it from the specs.
        self.aliases: dict[str, str] = {}

    def read(
        self, inputs: Mapping[str, Any], targets: Collection[str], *, dry: bool = False
    ) -> tuple[Sample, dict[str, str]]:
        """The sample, and {name as given: modality that represents it}. With `dry` no network runs: ids of grids and
        vectors are then placeholders, equal for equal arrays."""
        given, shown_as, sample = dict[str, _Given](), dict[str, str](), Sample()
        for name, value in inputs.items():
            condition = value if isinstance(value, Condition) else Condition(value)
            part = self._resolve(name, condition, targets)
            instance = part.modality.name
            if instance in given:
                raise ValueError(f"{given[instance].name!r} and {name!r} are both shown as {instance!r}; give one")
            given[instance], shown_as[name] = part, instance
            if part.weights and instance in targets:
                raise ValueError(f"{name!r} is a target: its known part takes no weight; leave weight out")
        views = sample.views = self.drawer.draw("", 0, _aspects(given))
        for instance, part in given.items():
            view, is_sequence = view_of(part.modality.spec, views, 0), part.modality.spec.layout.kind == "sequence"
            is_target, shown = instance in targets, self._show(part, view, dry)
            if is_target and part.keep is None and not is_sequence:
                raise ValueError(
                    f"{part.name!r} is both given in full and a target; leave it out of one, or say with "
                    f"Condition(value, keep=mask) which part is known"
                )
            if part.keep is not None:
                tokens = kept_tokens(part.name, part.keep, part.value, part.modality.spec, view, halo=part.halo)
                shown = shown.at(tokens)
                if is_target and part.ids is None:
                    pixels = kept_pixels(part.keep, part.modality.spec, view)
                    if pixels.any():
                        sample.kept[instance] = Kept(part.modality.augment(part.value, view), pixels)
                if not tokens.any():  # everything is to be regenerated: same as not given
                    del shown_as[part.name]
                    continue
            if not is_target:
                sample.shown[instance] = self.closed(instance, shown.ids) if is_sequence else shown
                self._weigh(sample, part, view)
                continue
            sample.known[instance] = shown
            if is_sequence and part.ids is None:  # the beginning of a text to continue
                text = part.value if isinstance(part.value, str) else part.modality.augment(part.value, view)
                if isinstance(text, str):
                    sample.kept[instance] = Kept(text, None)
        return sample, shown_as

    def _weigh(self, sample: Sample, part: _Given, view: View) -> None:
        """Record the guidance weights of an input, for the whole or for its regions."""
        name, taken = part.modality.name, np.zeros(0, np.int64)
        for number, (weight, region) in enumerate(part.weights, 1):
            if region is None:
                sample.weights[name] = weight
                continue
            tokens = np.flatnonzero(region_tokens(part.name, region, part.value, part.modality.spec, view))
            which = f"{part.name!r}: region" + (f" {number}" if len(part.weights) > 1 else "")
            if not np.isin(tokens, sample.shown[name].pos).any():
                raise ValueError(f"{which} lies outside what the model sees, the picture's centre; move it there")
            if np.isin(tokens, taken).any():
                raise ValueError(f"{which} shares tokens with another region; separate them")
            taken = np.append(taken, tokens)
            sample.regions[f"{name} (region {number})"] = Region(name, tokens, weight)

    def closed(self, name: str, ids: np.ndarray) -> Shown:
        """A complete sequence as in training: with its end marker, truncated to the modality's maximum length."""
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
        value = None if ids is not None else read_value(name, modality, condition.value)
        keep = None if condition.keep is None else np.asarray(condition.keep)
        weights = weights_of(condition.weight, condition.region)
        return _Given(name, modality, value, ids, keep, condition.halo, weights)

    def instance(self, name: str, *, raw: bool) -> Modality:
        """The modality that represents `name`, for a value (`raw`) or ids. Raises ValueError if there is none."""
        if raw and name in self.aliases:
            return self.modalities[self.aliases[name]]
        readers = [m for m in self.modalities.values() if m.spec.source == name and m.spec.input]
        if name not in self.modalities and readers:
            return next((m for m in readers if m.spec.continuous), readers[0])
        modality = self.find(name)
        # With several instances of a modality, `a` and `a@448`, values go to the one without "@".
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
            ids = calls.encode(self.tokenizers[spec.name], [array])[0]
        tokenizer = self.tokenizers[spec.name]
        if isinstance(tokenizer, TextTokenizer) and len(ids) and ids[-1] == tokenizer.end_id:
            ids = ids[:-1]
        return Shown.tokens(ids)

    @property
    def input_names(self) -> list[str]:
        return [name for name, m in self.modalities.items() if m.spec.input]


def kept_tokens(
    name: str, keep: np.ndarray, value: Any, spec: ModalitySpec, view: View, *, halo: int | None
) -> np.ndarray:
    """bool (n,): the tokens of a partly given input that are kept. Raises ValueError for a part that is impossible."""
    edit = halo is not None
    tokens = tokens_within(name, keep, value, spec, view, what="the mask" if edit else "keep")
    check_kept(name, tokens, spec, edit=edit)
    return without_halo(tokens, spec, halo or 0)


def read_value(name: str, modality: Modality, given: Any) -> Any:
    """Read an input with `Modality.value`. Raises ValueError, one line that names the input."""
    with _blame(name, given), reading(lambda: f"input {name!r}"):
        if isinstance(given, Typed):
            return modality.from_text(given.text)
        try:
            return modality.value(given)
        except SampleError as error:
            path = isinstance(given, str) and looks_like_path(given, modality.spec.extensions, typed=True)
            if modality.accepts_text and path:
                hint = "give text that looks like a path as Typed(...), on the command line as text:..."
                raise SampleError(f"{error}; {hint}") from error
            raise


def _augmented(modality: Modality, value: Any, view: View) -> Any:
    # A string needs no `augment`: there is no choice among several sentences, and nothing to crop.
    literal = modality.spec.layout.kind == "sequence" and isinstance(value, str)
    return value if literal else modality.augment(value, view)


@contextmanager
def _blame(name: str, given: Any) -> Iterator[None]:
    """Prefix errors of a plugin with the user's name of the input."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"input {name!r}: {one_line(error)}{_hint(given)}") from error
    except (TypeError, AttributeError, IndexError, KeyError) as error:
        why = one_line(error)
        raise ValueError(f"input {name!r}: {describe(given)} is not a value of it ({why}){_hint(given)}") from error


def _hint(given: Any) -> str:
    """A hint, if the value may have been meant as token ids."""
    row = isinstance(given, (list, tuple)) and bool(given) and all(type(x) is int for x in given)
    if not row and len(getattr(given, "shape", ())) == 1:
        row = str(getattr(given, "dtype", "")).removeprefix("torch.").startswith(("int", "uint"))
    return "; give token ids as Ids(...)" if row else ""


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
    """Alignment group -> width / height of its picture, which all raw values of the group must share."""
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

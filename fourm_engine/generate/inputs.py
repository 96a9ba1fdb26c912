"""From what a user gives (pictures, sentences, boxes, files, token ids) to what the encoder is shown.

In: {name: value, ids or `Condition`}. Out: a `Sample`, and under which modality each name is shown. A raw value goes
through its modality as in training: one centre view for all that is aligned, augment, normalise, tokenizer. The name of
a data source, given a raw value, is shown as the continuous modality that reads this source, if the model has one (it
loses nothing to a tokenizer), and as tokens otherwise. Integer arrays of one dimension are always token ids.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fourm_engine.data.views import ViewDrawer, view_of
from fourm_engine.generate.keep import Kept, check_kept, kept_pixels
from fourm_engine.generate.shown import Sample, Shown
from fourm_plugins.modality import Modality
from fourm_plugins.spec import FeatureMap, Grid, ModalitySpec
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer
from fourm_plugins.view import View

#: Values of one sample may differ by this much in width / height and still be one picture (rounding of odd sizes).
ASPECT_TOLERANCE = 0.02
#: No single input file is larger.
MAX_FILE_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Condition:
    """A value (or ids) of which only a part counts, or with a guidance weight of its own.

    `keep`: bool, True where the value is known: (h, w) of the token grid, (n,) tokens, or (H, W) of the value's pixels;
    then a token counts as known when all its pixels are. Where the modality is a target, too, what is known stays and
    the rest is generated; elsewhere only the known tokens are shown. `weight`: wᵢ in u + Σ wᵢ (cᵢ − u)."""

    value: Any
    keep: np.ndarray | None = None
    weight: float | None = None


@dataclass(frozen=True)
class _Given:
    modality: Modality
    value: Any  # raw value, or None
    ids: np.ndarray | None
    keep: np.ndarray | None


class InputReader:
    """`find(name)` gives a modality or raises the ValueError that tells why there is none."""

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        tokenizers: Mapping[str, Tokenizer],
        find: Callable[[str], Modality],
    ) -> None:
        self.modalities = modalities
        self.tokenizers = tokenizers
        self.find = find
        self.drawer = ViewDrawer(modalities)

    def read(self, inputs: Mapping[str, Any], targets: Collection[str]) -> tuple[Sample, dict[str, str]]:
        """The sample, and {name as given: modality it is shown as}."""
        given, shown_as, sample = {}, {}, Sample()
        for name, value in inputs.items():
            condition = value if isinstance(value, Condition) else Condition(value)
            part = self._resolve(name, condition, targets)
            instance = part.modality.name
            if instance in given:
                raise ValueError(f"{name!r} and another input are both shown as {instance!r}; give one of them")
            given[instance], shown_as[name] = part, instance
            if condition.weight is not None:
                if instance in targets:
                    raise ValueError(
                        f"{name!r} is a target: what is known of it has no guidance weight; leave weight out"
                    )
                sample.weights[instance] = float(condition.weight)
        views = self.drawer.draw("", 0, _aspects(given))
        for name, part in given.items():
            view, sequence = view_of(part.modality.spec, views, 0), part.modality.spec.layout.kind == "sequence"
            shown = self._show(part, view)
            if part.keep is not None:
                tokens = _kept_tokens(part, view)
                check_kept(tokens, part.modality.spec, next(given for given, shown in shown_as.items() if shown == name))
                shown = shown.at(tokens)
                if name in targets and part.ids is None:
                    value = part.modality.augment(part.value, view)
                    sample.kept[name] = Kept(value, kept_pixels(part.keep, part.modality.spec, view))
            elif name in targets and not sequence:
                raise ValueError(
                    f"{name!r} is given in full and asked for; leave it out of one, or say with "
                    f"Condition(value, keep=mask) which part is known"
                )
            if name in targets:  # of a sequence: its beginning, to be continued
                sample.known[name] = shown
            else:
                sample.shown[name] = self.closed(name, shown.ids) if sequence else shown
        return sample, shown_as

    def closed(self, name: str, ids: np.ndarray) -> Shown:
        """A whole sequence as training shows it: with its end marker, cut at the most tokens it may have."""
        tokenizer = self.tokenizers[name]
        assert isinstance(tokenizer, TextTokenizer)
        return Shown.tokens(np.append(ids, tokenizer.end_id)[: self.modalities[name].spec.layout.num_tokens])

    def _resolve(self, name: str, condition: Condition, targets: Collection[str]) -> _Given:
        ids = _as_ids(condition.value)
        modality = self._instance(name, raw=ids is None and not (condition.keep is not None and name in targets))
        spec = modality.spec
        if ids is not None:
            _check_ids(ids, spec)
        if not spec.input and spec.name not in targets:
            raise ValueError(f"{spec.name!r} is a target only and cannot be given; use {self._input_names()}")
        if condition.keep is not None and not isinstance(spec.layout, Grid):
            raise ValueError(f"{name!r} is a {spec.layout.kind}; keep masks are for grids. Leave keep out")
        value = None if ids is not None else _load(modality, condition.value)
        return _Given(modality, value, ids, None if condition.keep is None else np.asarray(condition.keep))

    def _instance(self, name: str, *, raw: bool) -> Modality:
        readers = [m for m in self.modalities.values() if m.spec.source == name and m.spec.input]
        if name not in self.modalities and readers:
            return next((m for m in readers if m.spec.continuous), readers[0])
        modality = self.find(name)
        if raw and not modality.spec.continuous and name == modality.spec.source:
            for other in readers:
                if other.spec.continuous and other.spec.array == modality.spec.array:
                    return other
        return modality

    def _show(self, part: _Given, view: View) -> Shown:
        modality, spec, ids = part.modality, part.modality.spec, part.ids
        if ids is None:
            array = _array(modality, part.value, view)
            if spec.continuous:
                return Shown.continuous(spec, np.asarray(array))
            ids = self.tokenizers[spec.name].encode([array])[0]
        tokenizer = self.tokenizers[spec.name]
        if isinstance(tokenizer, TextTokenizer) and len(ids) and ids[-1] == tokenizer.end_id:
            ids = ids[:-1]
        return Shown.tokens(ids)

    def _input_names(self) -> str:
        return ", ".join(name for name, m in self.modalities.items() if m.spec.input)


def _array(modality: Modality, value: Any, view: View) -> Any:
    # A bare string is what a sequence is after augment: one sentence, not alternatives, and nothing to crop.
    literal = modality.spec.layout.kind == "sequence" and isinstance(value, str)
    try:
        return modality.normalise(value if literal else modality.augment(value, view))
    except ValueError as error:
        raise ValueError(f"input {modality.name!r} cannot be used: {error}") from error
    except (TypeError, AttributeError, IndexError) as error:
        given = f"{type(value).__name__} {getattr(value, 'shape', '')}".strip()
        raise ValueError(f"input {modality.name!r} is no value of this modality ({given}): {error}") from error


def _load(modality: Modality, value: Any) -> Any:
    """Files are read by their modality, pictures become arrays; all else is a value already."""
    if isinstance(value, os.PathLike):
        path = Path(value)
        if not path.is_file():
            raise ValueError(f"input {modality.name!r}: no such file: {path}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"input {modality.name!r}: {path} is larger than {MAX_FILE_BYTES} bytes")
        extension = next((e for e in modality.spec.extensions if path.name.lower().endswith(f".{e.lower()}")), None)
        if extension is None:
            known = ", ".join(modality.spec.extensions)
            raise ValueError(f"input {modality.name!r}: {path.name} is none of its files ({known})")
        try:
            return modality.read({extension: path.read_bytes()})
        except ValueError as error:
            raise ValueError(f"input {modality.name!r}: {path}: {error}") from error
    if isinstance(value, Image.Image):
        three = isinstance(modality.spec.array, FeatureMap) and modality.spec.array.channels == 3
        return np.asarray(value.convert("RGB") if three else value)
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def _as_ids(value: Any) -> np.ndarray | None:
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    if isinstance(value, np.ndarray) and value.ndim == 1 and np.issubdtype(value.dtype, np.integer):
        return value.astype(np.int64)
    if isinstance(value, list) and value and all(type(i) is int for i in value):
        return np.asarray(value, np.int64)
    return None


def _check_ids(ids: np.ndarray, spec: ModalitySpec) -> None:
    if spec.token_space is None:
        raise ValueError(f"{spec.name!r} is continuous input and has no token ids; give its value")
    wrong = ids[(ids < 0) | (ids >= spec.token_space.size)]
    if len(wrong):
        raise ValueError(f"{spec.name!r}: id {wrong[0]} is outside [0, {spec.token_space.size})")
    n, sequence = spec.layout.num_tokens, spec.layout.kind == "sequence"
    if len(ids) > n if sequence else len(ids) != n:
        raise ValueError(f"{spec.name!r}: {len(ids)} ids, but it has {'at most ' if sequence else ''}{n} tokens")


def _aspects(given: Mapping[str, _Given]) -> dict[str, float]:
    """Alignment group -> width / height of its picture, on which all raw values of the group must agree."""
    aspects: dict[str, float] = {}
    first: dict[str, str] = {}
    for name, part in given.items():
        group = part.modality.spec.alignment
        if part.ids is not None or group is None:
            continue
        try:
            aspect = part.modality.aspect(part.value)
        except (TypeError, AttributeError, IndexError, ValueError) as error:
            kind = type(part.value).__name__
            raise ValueError(f"input {name!r} is no value of this modality ({kind}): {error}") from error
        if aspect is None:
            continue
        if abs(aspect / aspects.setdefault(group, aspect) - 1) > ASPECT_TOLERANCE:
            raise ValueError(
                f"{first[group]!r} and {name!r} are aligned, but their pictures have width / height of "
                f"{aspects[group]:.3f} and {aspect:.3f}; give crops of one picture"
            )
        first.setdefault(group, name)
    return aspects


def _kept_tokens(part: _Given, view: View) -> np.ndarray:
    """bool (tokens,) from a mask of tokens or of pixels."""
    spec, keep = part.modality.spec, part.keep
    assert isinstance(spec.layout, Grid)
    assert keep is not None
    h, w = spec.layout.height, spec.layout.width
    if keep.dtype != np.bool_:
        raise ValueError(f"{spec.name!r}: keep must be bool, True where the value is known, not {keep.dtype}")
    if keep.shape in ((h, w), (h * w,)):
        return keep.reshape(-1)
    pixels = None if part.value is None else np.asarray(part.value).shape[:2]
    if keep.shape != pixels:
        raise ValueError(
            f"{spec.name!r}: keep has shape {keep.shape}; the token grid is {(h, w)}, the picture {pixels}"
        )
    left, top, right, bottom = view.pixels(*keep.shape)
    unknown = ~keep[:, ::-1] if view.flip else ~keep
    rows, columns = np.linspace(top, bottom, h + 1), np.linspace(left, right, w + 1)
    kept = np.empty((h, w), np.bool_)
    for i in range(h):
        for j in range(w):
            # Every pixel that the token's patch touches.
            y, x = slice(int(rows[i]), int(np.ceil(rows[i + 1]))), slice(int(columns[j]), int(np.ceil(columns[j + 1])))
            kept[i, j] = not unknown[y, x].any()
    return kept.reshape(-1)

"""Read the inputs of samples for generation and prediction: from files or values to arrays, as the model sees them.

In: `SampleInputs` and names. Out: `Read`, or a `BadFile` with the reason. Runs in worker processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.raw.aspect import same_aspect
from fourm_engine.data.views import SampleViews, ViewDrawer, view_of
from fourm_engine.generate.edit import EditPlan
from fourm_engine.generate.input_types import Condition, Ids, Typed
from fourm_engine.generate.inputs import kept_tokens
from fourm_engine.generate.masks import read_mask, region_tokens
from fourm_engine.generate.paste import Original
from fourm_engine.generate.regions import Regions, with_regions
from fourm_engine.generate.result import Results
from fourm_engine.generate.sample import Kept, kept_pixels
from fourm_engine.recipes.sample_inputs import MASK, Given, SampleInputs
from fourm_engine.storage.errors import StoreError
from fourm_plugins import calls
from fourm_plugins.arrays import check_array
from fourm_plugins.decoding import decode_picture
from fourm_plugins.discovery import PluginError
from fourm_plugins.errors import SampleError, one_line
from fourm_plugins.inputs import read_file
from fourm_plugins.modality import Modality
from fourm_plugins.notes import reading
from fourm_plugins.spec import Grid
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer
from fourm_plugins.view import View


@dataclass(frozen=True)
class Read:
    """One sample as read by a worker: modality -> array, and for continuous modalities the value as the model sees it;
    the files to write beside the results, as the model sees them, source -> {extension: content}."""

    arrays: dict[str, Any]
    values: dict[str, Any]
    files: dict[str, dict[str, bytes]]
    #: Modality -> weights of regions of its tokens, bool (h, w).
    regions: dict[str, list[tuple[float, np.ndarray]]]
    #: Edited modality -> its known tokens, bool (h, w), and pixels.
    edited: dict[str, tuple[np.ndarray, Kept]]
    views: SampleViews
    stamp: str
    #: Of the content of all files and values, and of what the model is shown alone.
    digest: str
    shown_digest: str
    seed: int


@dataclass
class _At:
    """The name of the input that is being read."""

    key: str = ""


@dataclass
class Reader:
    """`reader[(name, …)]`: name -> `Read`, or a BadFile with the reason. Picklable."""

    inputs: SampleInputs
    #: Name as given -> modality that reads it.
    shown_as: dict[str, Modality]
    drawer: ViewDrawer
    seed: int = 0
    #: Names whose files are written beside the results, and those of them that are not shown to the model.
    written: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    regions: Regions = field(default_factory=dict)
    #: The edit of each sample; with a mask, its files under `MASK`, or this one for all.
    edit: EditPlan | None = None
    mask: np.ndarray | None = None
    #: Whether results are pasted into the files.
    paste: bool = False

    def __getitem__(self, names: Sequence[str]) -> dict[str, Read | BadFile]:
        return {name: self._read(name) for name in names}

    def _read(self, name: str) -> Read | BadFile:
        try:
            with self._blaming(name) as at:
                stamp, given = self.inputs.stamp(name), self.inputs.given(name)
                shown, beside = hashlib.sha256(f"{given.seed}".encode()), hashlib.sha256()
                values = self._values(given, at, shown, beside)
                keeps = self._edit(values, at)
                views = self._views(values, at)
                one = shown.hexdigest()
                both = one + beside.hexdigest() if self.beside else one
                read = Read({}, {}, {}, {}, {}, views, stamp, both, one, _seed(self.seed, name, given.seed))
                for key, value in values.items():
                    at.key = key
                    view = view_of(self.shown_as[key].spec, views, 0)
                    self._see(read, key, value, view, keeps.get(key))
                    if key in self.regions:
                        read.regions[self.shown_as[key].name] = self._marked(key, value, view)
            return read
        except BadFile as bad:
            return bad

    def originals(self, name: str) -> dict[str, Original]:
        """The edited files of a sample, read again, by modality. Raises BadFile if that fails."""
        with self._blaming(name) as at:
            values = self._values(self.inputs.given(name), at, hashlib.sha256(), hashlib.sha256())
            keeps = self._edit(values, at)
            views, found = self._views(values, at), dict[str, Original]()
            for key, keep in keeps.items():
                modality = self.shown_as[key]
                view = view_of(modality.spec, views, 0)
                found[modality.name] = Original.of(key, values[key], keep, modality, view)
            return found

    @contextmanager
    def _blaming(self, name: str) -> Iterator[_At]:
        """Turns errors of a sample into BadFile, which names its files, and those of plugins into PluginError."""
        at = _At()
        try:
            with reading(lambda: self.inputs.where(name)):
                yield at
        except (BadFile, StoreError, PluginError):  # these already name the file
            raise
        except (SampleError, ValueError) as error:
            raise BadFile(self.inputs.where(name), at.key, one_line(error)) from error
        except Exception as error:
            if at.key not in self.shown_as:
                raise
            raise calls.fault(self.shown_as[at.key], "reading", error, self.inputs.where(name)) from error

    def _values(self, given: Given, at: _At, shown: Any, beside: Any) -> dict[str, Any]:
        """Name as given -> value, or of `MASK` its picture. Adds what is read to the hashes `shown` and `beside`."""
        values = dict[str, Any]()
        for key, content in sorted(given.values.items()):
            at.key, files = key, content
            if isinstance(content, Path):
                files = read_file(content, self.shown_as[key].spec.extensions)
            for kind, part in files.items() if isinstance(files, dict) else [("", repr(files))]:
                digest = beside if key in self.beside else shown
                digest.update(f"{key} {kind} {len(part)} ".encode())
                digest.update(part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass"))
            values[key] = (
                decode_picture(next(iter(files.values()))) if key == MASK else _value(self.shown_as[key], files)
            )
        return values

    def _edit(self, values: dict[str, Any], at: _At) -> dict[str, np.ndarray]:
        """What is known of each edited value, as a bool mask; takes the mask out of the values, and outpaints them."""
        picture = values.pop(MASK, None)
        if self.edit is None or not self.edit.partial:
            return {}
        at.key = MASK
        mask = self.mask if picture is None else read_mask(picture)
        keeps = dict[str, np.ndarray]()
        for key in self.edit.targets:
            at.key = key
            values[key], keeps[key] = self.edit.marked(key, values[key], mask)
        return keeps

    def _views(self, values: Mapping[str, Any], at: _At) -> SampleViews:
        aspects = dict[str, tuple[float, str]]()
        for key, value in values.items():
            at.key, modality = key, self.shown_as[key]
            group, aspect = modality.spec.alignment, modality.aspect(value)
            if group is not None and aspect is not None:
                first, other = aspects.setdefault(group, (aspect, key))
                if not same_aspect(aspect, first):
                    raise SampleError(f"width / height is {aspect:.3f}, that of its {other} {first:.3f}")
        return self.drawer.draw("", 0, {group: aspect for group, (aspect, _) in aspects.items()})

    def _marked(self, key: str, value: Any, view: View) -> list[tuple[float, np.ndarray]]:
        spec = self.shown_as[key].spec
        parts = [(weight, region_tokens(key, part, value, spec, view)) for weight, part in self.regions[key]]
        if not all(tokens.any() for _, tokens in parts):
            raise ValueError(f"region of {key!r} holds nothing of what the model sees, the picture's centre")
        assert isinstance(spec.layout, Grid)
        return [(weight, tokens.reshape(spec.layout.height, spec.layout.width)) for weight, tokens in parts]

    def _see(self, read: Read, key: str, value: Any, view: View, keep: np.ndarray | None) -> None:
        modality = self.shown_as[key]
        text = modality.spec.layout.kind == "sequence" and isinstance(value, str)
        seen = value if text else modality.augment(value, view)
        array = modality.normalise(seen)
        check_array(modality.spec, array)
        if key in self.written:
            read.files[modality.spec.source] = calls.write(modality, seen)
        if key in self.beside:
            return
        if keep is not None:
            assert self.edit is not None
            spec, layout = modality.spec, modality.spec.layout
            assert isinstance(layout, Grid)
            if self.paste:
                Original.of(key, value, keep, modality, view)  # raises its errors before anything is generated
            tokens = kept_tokens(key, keep, value, spec, view, halo=self.edit.halo)
            pixels = kept_pixels(keep, spec, view)
            read.edited[modality.name] = tokens.reshape(layout.height, layout.width), Kept(seen, pixels)
        if modality.spec.continuous:
            read.values[modality.name] = seen
        else:
            read.arrays[modality.name] = array


def encoded(
    batch: Sequence[Read], tokenizers: Mapping[str, Tokenizer], modalities: Mapping[str, Modality]
) -> list[dict[str, Any]]:
    """The inputs of a model: ids, encoded together, and values of continuous modalities."""
    inputs = [dict[str, Any](read.values) for read in batch]
    for name in sorted({name for read in batch for name in read.arrays}):
        having = [i for i, read in enumerate(batch) if name in read.arrays]
        tokenizer, most = tokenizers[name], modalities[name].spec.layout.num_tokens
        for i, ids in zip(having, calls.encode(tokenizer, [batch[i].arrays[name] for i in having]), strict=True):
            if isinstance(tokenizer, TextTokenizer):
                ids = np.asarray(ids)[:most]
            inputs[i][name] = Ids(ids)
    for given, read in zip(inputs, batch, strict=True):
        for name, (tokens, _) in read.edited.items():
            ids = given.pop(name)
            if tokens.any():
                given[name] = Condition(ids, keep=tokens)
    return [with_regions(given, read.regions) for given, read in zip(inputs, batch, strict=True)]


def composed(read: Read, results: Results) -> Results:
    """The results with the known pixels of edited values, as `FourM.edit` gives them."""
    for name, (_, kept) in read.edited.items():
        if kept.pixels is not None and kept.pixels.any():
            made = results[name]
            value = calls.compose(made.modality, kept.value, made.value, kept.pixels)
            results[name] = replace(made, value=value, given=kept.pixels)
    return results


def _value(modality: Modality, given: Any) -> Any:
    if isinstance(given, Typed):
        return modality.from_text(given.text)
    files = isinstance(given, dict) and set(given) <= {*modality.spec.extensions}
    return modality.read(given) if files else modality.value(given)


def _seed(seed: int, name: str, given: int | None) -> int:
    """The seed of a sample, independent of its batch: the given one, or one derived from its name."""
    if given is not None:
        return given
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()[:7], "big")

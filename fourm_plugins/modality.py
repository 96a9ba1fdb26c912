"""Modality: the class a plugin author writes. It owns file formats, geometry, normalisation, pictures and metrics.

A modality's *value* is what its users think in: metres (H, W), an RGB picture uint8 (H, W, 3), a list of boxes, a
string. Its *array* (`ModalitySpec.array`) is what a tokenizer or the model takes.

    files --read--> value --augment(view)--> value --normalise--> array --tokenizer--> ids
    files <-write-- value <------------- denormalise ------------ array <-tokenizer--- ids

Whatever a user holds becomes a value by `value(given)`: a path, bytes, a picture, an array, text.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from pydantic import BaseModel

from fourm_plugins import inputs
from fourm_plugins.errors import SampleError
from fourm_plugins.legend import Legend
from fourm_plugins.notes import reading
from fourm_plugins.recognition import Recognised, contents, usable
from fourm_plugins.reductions import How, average, deviation, vote
from fourm_plugins.settings import Settings, flat, flat_settings
from fourm_plugins.spec import ClassMap, ModalitySpec, Text
from fourm_plugins.view import View

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Value = TypeVar("Value")


@dataclass(frozen=True)
class Metric:
    """`compute(predictions, truths) -> float` takes two lists of values of equal length, at least `min_samples`: with
    fewer, the number means nothing. `unit` is that of the number, such as "m" or "dB"."""

    name: str
    compute: Callable[[Sequence[Any], Sequence[Any]], float]
    higher_is_better: bool
    unit: str = ""
    min_samples: int = 1


class Labeller(ABC):
    """Makes values of one modality from values of another, with a pretrained model or by geometry."""

    @abstractmethod
    def label(self, values: Sequence[Any]) -> list[Any]:
        """For each value of the source modality, one of the labelled modality, or a `SampleError` that says why there
        is none."""


class Modality(ABC, Generic[Value]):
    """One modality: subclass it, or one of `fourm_plugins.bases`.

    `name` is the instance's name in configs, vocabularies and checkpoints; one class may serve several instances
    (`rgb`, `rgb@448`), which differ in `settings`, an instance of `Settings`. `spec` is what `make_spec` returned."""

    Settings: ClassVar[type[BaseModel]] = Settings
    #: Settings that the published models and tokenizers of this modality were trained with. They replace the defaults
    #: when one of these is loaded. Sizes are not among them: they follow from the files.
    published_settings: ClassVar[Mapping[str, Any]] = {}
    #: Change it in a release in which the same files and settings give other arrays, or the same arrays other values;
    #: tokens, tokenizers and models made before are then refused.
    ids_version: ClassVar[str] = ""
    #: What the conformance kit checks beyond what the spec implies, such as "directions" (docs/conformance.md).
    claims: ClassVar[frozenset[str]] = frozenset()
    #: Whether `augment` uses `View.variant`. If not, views that differ only in it are computed once.
    variants: ClassVar[bool] = True
    #: Whether a sequence has one right answer when a picture is given, as boxes do and captions do not: its likeliest
    #: tokens are then its default.
    one_answer: ClassVar[bool] = False
    #: What a value is, in users' words, for error messages: "a picture, uint8 (H, W, 3)".
    wanted: ClassVar[str] = ""
    #: Names that people give to folders of such data, besides the modality's name: lower case, singular.
    folders: ClassVar[tuple[str, ...]] = ()
    #: Names of files that lie beside the samples and describe all of them; see `documented`.
    documents: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, /, **settings: Any) -> None:
        self.name = name
        self.settings: Any = self.Settings(**settings)
        self.spec: ModalitySpec = self.make_spec()

    def __repr__(self) -> str:
        given = "".join(f", {key}={value!r}" for key, value in self.settings.model_dump(exclude_unset=True).items())
        return f"{type(self).__name__}({self.name!r}{given})"

    @abstractmethod
    def make_spec(self) -> ModalitySpec:
        """The spec under `self.name` and `self.settings`."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the modality's ids and what they decode to, as a flat JSON-ready dict: every setting
        by its path ("max_depth", "text.coordinate_bins"), defaults included, except those that `Settings` declares
        `display_only` or `run_only`; facts of the spec ("spec.array.channels"), which a release may change; and
        "ids_version"."""
        spec = self.spec.model_dump(mode="json", include={"layout", "array", "token_space", "tokenizer"})
        return flat_settings(self.settings) | flat(spec, "spec.") | {"ids_version": self.ids_version}

    def at_size(self, height: int, width: int) -> Modality[Value]:
        """This modality at `height` x `width` pixels, for tokenizers that serve several sizes. Raises ValueError if it
        has no size, or if its patches do not divide this one."""
        if "image_size" not in type(self.settings).model_fields:
            raise ValueError(f"{self.name} has no image_size, so it cannot be seen at {height}x{width} pixels")
        settings = self.settings.model_dump(exclude_unset=True) | {"image_size": (height, width)}
        return type(self)(self.name, **settings)

    @abstractmethod
    def read(self, files: Mapping[str, bytes]) -> Value:
        """The value of one sample from its files, {extension without dot: content}. Raises `SampleError`."""

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """Whether a folder's files look like this modality's, and which settings fit them; None if they are another's.
        `fourm init` asks every plugin about every folder. `samples` holds the files of some of the folder's samples,
        {extension without dot: content}, among them perhaps files of other modalities.

        The default is weak evidence, enough in a folder named after the modality: files that the default settings can
        read."""
        try:
            modality = cls("probe")
        except ValueError:
            return None  # a setting without a default
        candidates = [files for files in samples if contents([files], modality.spec.extensions)]
        read = usable(candidates, lambda files: (modality.read(files),))
        return Recognised(0.4, "files that it reads") if read else None

    @classmethod
    def documented(cls, name: str, content: bytes) -> Mapping[str, Any]:
        """Settings that the file `name`, one of `documents`, provides for a config that sets none of them. Raises
        ValueError if the file cannot be used."""
        return {}

    @abstractmethod
    def write(self, value: Value) -> dict[str, bytes]:
        """The files of one sample, from which `read` returns the same value, to the format's precision."""

    # Inputs: whatever a user gives means what the same file would mean. Each method raises `SampleError`, one line
    # in users' words.

    def value(self, given: Any) -> Value:
        """The value that `given` stands for: a path (`os.PathLike`, or a str that looks like one), the bytes of a file,
        a `PIL.Image`, an array (NumPy, a torch tensor, or what converts to NumPy), text where the files are text, or a
        value. Raises `SampleError`."""
        if isinstance(given, str):
            if not inputs.looks_like_path(given, self.spec.extensions, typed=self.typed):
                return self.from_text(given)
            given = Path(given)
        if isinstance(given, os.PathLike):
            path = Path(os.fsdecode(given))
            files = inputs.read_file(path, self.spec.extensions)
            with reading(lambda: str(path)):
                try:
                    return self.read(files)
                except SampleError as error:
                    raise SampleError(f"{path}: {error}") from error
        if isinstance(given, (bytes, bytearray, memoryview)):
            content = bytes(given)
            return self.read({inputs.sniff(content, self.spec.extensions): content})
        if inputs.is_picture(given):
            return self.from_picture(given)
        array = inputs.as_array(given)
        return self.from_object(given) if array is None else self.from_array(array)

    @property
    def typed(self) -> bool:
        """Whether a value can be typed (`from_text`)."""
        return isinstance(self.spec.array, Text) or any(e in inputs.TEXT_EXTENSIONS for e in self.spec.extensions)

    def from_text(self, text: str) -> Value:
        """The value of typed text; by default what a file with this content holds."""
        extension = next((e for e in self.spec.extensions if e in inputs.TEXT_EXTENSIONS), self.spec.extensions[0])
        if not self.typed:
            raise SampleError(f"cannot be typed; give a file (.{', .'.join(self.spec.extensions)})")
        return self.read({extension: text.encode(errors="surrogatepass")})

    def from_picture(self, picture: Any) -> Value:
        """The value of a `PIL.Image`; by default what a PNG file of it holds."""
        extension = next((e for e in self.spec.extensions if e in ("png", "webp", "jpg", "jpeg")), None)
        if extension is None:
            raise self.refusal(picture, "its files are no pictures")
        from fourm_plugins.decoding import as_png

        return self.read({extension: as_png(picture)})

    def from_array(self, array: np.ndarray) -> Value:
        """The value of an array; by default the array itself, if it holds numbers."""
        return cast("Value", inputs.numbers(array, self.wants()))

    def from_object(self, given: Any) -> Value:
        """The value of anything else; by default the thing itself."""
        if given is None:
            raise self.refusal(given)
        return cast("Value", given)

    def refusal(self, given: Any, why: str = "") -> SampleError:
        """The error that says what is wanted and what was given."""
        return inputs.refusal(self.wants(), given, why)

    def wants(self) -> str:
        """What may be given, for errors."""
        files = f"a file (.{', .'.join(self.spec.extensions)})"
        return f"{self.wanted}, or {files}" if self.wanted else files

    def aspect(self, value: Value) -> float | None:
        """Width / height of a value with an extent in the picture; None for any other."""
        return None

    @abstractmethod
    def augment(self, value: Value, view: View) -> Value:
        """The value seen through `view`, at this modality's own size. Any random choice is the view's."""

    @abstractmethod
    def normalise(self, value: Value) -> np.ndarray | str:
        """The array of an augmented value, in the shape and dtype of `spec.array`. Raises `SampleError` for a value
        that it cannot hold."""

    @abstractmethod
    def denormalise(self, array: np.ndarray | str) -> Value:
        """The value of an array, in the shape and dtype of `spec.array`. Never raises on what a tokenizer decodes."""

    def denormalise_scored(self, array: str, tokens: Sequence[tuple[str, float]]) -> Value:
        """The value of a generated text, from the text of each of its tokens and the probability that the model gave
        it. Never raises on what a tokenizer decodes."""
        return self.denormalise(array)

    def compose(self, given: Value, generated: Value, kept: Bool[np.ndarray, "H W"]) -> Value:
        """An edited value: `given` where `kept` is True, `generated` elsewhere. Both are values at this modality's own
        size; `kept` has the array's rows and columns. Values with rows and columns first are composed pixel by pixel,
        all others as arrays; override it for values that only mean something as a whole."""
        a: Any = given
        b: Any = generated
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape and a.shape[:2] == kept.shape:
            value = b.copy()
            value[kept] = a[kept]
            return cast("Value", value)
        return self.denormalise(np.where(kept, self.normalise(given), self.normalise(generated)))

    @property
    def reductions(self) -> tuple[How, ...]:
        """The ways to reduce several values to one: "mean" and "median" for quantities, "vote" for classes and
        texts."""
        return ("vote",) if isinstance(self.spec.array, (Text, ClassMap)) else ("mean", "median")

    def reduce(self, values: Sequence[Value], how: How) -> Value:
        """Several values, at this modality's own size, reduced to one; `how` is one of `reductions`."""
        return cast("Value", vote(values)[0] if how == "vote" else average(values, how))

    def spread(self, values: Sequence[Value]) -> Any:
        """How far several values lie apart: float (H, W) for maps, {name: float} for named numbers, else a float. For
        quantities it is the standard deviation in the value's unit, for classes and texts the share that differs from
        the most common. Twice the spread of a value and the truth is the error of the value."""
        if "vote" in self.reductions:
            return 1 - vote(values)[1]
        return deviation(values)

    @abstractmethod
    def render(self, value: Value) -> Any:
        """The value as a person would look at it: a `PIL.Image` in RGB mode, or a string."""

    def render_all(self, values: Sequence[Value]) -> list[Any]:
        """`render` of values that are looked at side by side. Override it where colours mean something only within one
        picture, so that they are chosen for all of `values` together."""
        return [self.render(value) for value in values]

    def legend(self, value: Value) -> Legend | None:
        """What explains the colours of the picture that `render` makes of `value`: a `Scale` of a quantity, a `Key` of
        classes that occur; None for a picture that explains itself, and for text."""
        return None

    def parts(self, value: Value) -> Mapping[str, float]:
        """What `fourm vary` can vary of a value, and its present number, such as {"0.x": 0.4} for where the first box
        lies. Empty if nothing can be varied."""
        return {}

    def with_part(self, value: Value, part: str, number: float) -> Value:
        """`value` with another number for one of its `parts`. Raises `SampleError` for an impossible number."""
        raise SampleError(f"no part of it can be varied by a number; {part!r} is none")

    def class_names(self) -> tuple[str, ...]:
        """Names of a class map's classes in the order of their ids; empty if they have none."""
        return ()

    def remark(self, value: Value) -> str:
        """What a person should know about a value that `denormalise` made, such as what was lost; '' if nothing."""
        return ""

    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The modality's metrics, the most telling first."""

    def network_metrics(self, model: str) -> tuple[Metric, ...]:
        """Metrics in the features of a pretrained network (a name or a folder), such as a distance between two sets of
        pictures. Raises ValueError, one line, for a network that it cannot use."""
        return ()

    def contrastive(self, model: str) -> Callable[[Sequence[Value]], Float[np.ndarray, "n D"]] | None:
        """A function from values to their features by a pretrained contrastive `model` (a name or a folder): float32
        unit vectors, comparable with those of other modalities by the same model. None if such models do not know the
        modality. Raises ValueError, one line, for a model that it cannot use."""
        return None

    def constants(self, values: Sequence[Value]) -> dict[str, Value]:
        """The best constant predictions, {description: value}, such as the median depth everywhere. A model must beat
        them. Empty if no constant makes sense."""
        return {}

    def labelled_from(self, model: str | None) -> tuple[str, ...]:
        """Plugins of the modalities from which `labeller` can make this one, the best first, with a pretrained `model`
        or without one. Empty if there is no labeller."""
        return ()

    def labeller(self, source: Modality[Any], model: str | None, **options: Any) -> Labeller:
        """A labeller that makes this modality's values from `source`'s. `model` is the name or folder of a pretrained
        model; None means plain geometry. Raises ValueError, one line, for what it cannot use."""
        raise ValueError(f"{self.name} has no labeller: it cannot be made from {source.name}")

    @abstractmethod
    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        """`n` small valid samples, as `read` takes them; the same seed gives the same samples."""

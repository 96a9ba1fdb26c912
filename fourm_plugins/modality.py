"""Modality: the class a plugin author writes. It owns file formats, geometry, normalisation, pictures and metrics.

A modality's *value* is what its users think in: metres (H, W), an RGB picture uint8 (H, W, 3), a list of boxes, a
string. Its *array* (`ModalitySpec.array`) is what a tokenizer or the model takes.

    files --read--> value --augment(view)--> value --normalise--> array --tokenizer--> ids
    files <-write-- value <------------- denormalise ------------ array <-tokenizer--- ids

`value(given)` converts any user input to a value: a path, bytes, a picture, an array, text.
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
    """`compute(predictions, truths) -> float` takes two lists of values of equal length, at least `min_samples`; with
    fewer, the result is meaningless. `unit` is the result's unit, such as "m" or "dB"."""

    name: str
    compute: Callable[[Sequence[Any], Sequence[Any]], float]
    higher_is_better: bool
    unit: str = ""
    min_samples: int = 1


class Labeller(ABC):
    """Computes values of one modality from values of another, with a pretrained model or by geometry."""

    @abstractmethod
    def label(self, values: Sequence[Any]) -> list[Any]:
        """For each value of the source modality, the label's value, or a `SampleError` with the reason why there is
        none."""


class Modality(ABC, Generic[Value]):
    """One modality: subclass it, or one of `fourm_plugins.bases`.

    `name` is the instance's name in configs, vocabularies and checkpoints; one class may serve several instances
    (`rgb`, `rgb@448`), which differ in `settings`, an instance of `Settings`. `spec` is the result of `make_spec`."""

    Settings: ClassVar[type[BaseModel]] = Settings
    #: Settings that the published models and tokenizers of this modality were trained with; they replace the defaults
    #: when one of these is loaded. Sizes are not included: they follow from the files.
    published_settings: ClassVar[Mapping[str, Any]] = {}
    #: Change it in a release in which the same files and settings give different arrays, or the same arrays different
    #: values; tokens, tokenizers and models made with earlier releases are then rejected.
    ids_version: ClassVar[str] = ""
    #: What the conformance kit checks beyond what the spec implies, such as "directions" (docs/conformance.md).
    claims: ClassVar[frozenset[str]] = frozenset()
    #: Whether `augment` uses `View.variant`. If False, views that differ only in it are computed once.
    uses_variant: ClassVar[bool] = True
    #: Whether a sequence has one right answer given a picture, unlike captions, for example; it is then decoded
    #: greedily by default.
    one_answer: ClassVar[bool] = False
    #: A description of a value for users, in error messages: "a picture, uint8 (H, W, 3)".
    accepts: ClassVar[str] = ""
    #: Common names of folders with such data, besides the modality's name: lower case, singular.
    folders: ClassVar[tuple[str, ...]] = ()
    #: Names of files next to the samples that describe all of them; see `settings_from_document`.
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
        """Everything that determines the modality's ids and their meaning, as a flat JSON-ready dict: every setting by
        its path ("max_depth", "text.coordinate_bins"), including defaults, except those that `Settings` declares
        `display_only` or `run_only`; fields of the spec ("spec.array.channels"), which a release may change; and
        "ids_version"."""
        spec = self.spec.model_dump(mode="json", include={"layout", "array", "token_space", "tokenizer"})
        return flat_settings(self.settings) | flat(spec, "spec.") | {"ids_version": self.ids_version}

    def at_size(self, height: int, width: int) -> Modality[Value]:
        """This modality at `height` x `width` pixels, for tokenizers that support several sizes. Raises ValueError if
        it has no size, or if the size is not a multiple of its patches."""
        if "image_size" not in type(self.settings).model_fields:
            raise ValueError(f"{self.name} has no image_size, so it cannot be seen at {height}x{width} pixels")
        settings = self.settings.model_dump(exclude_unset=True) | {"image_size": (height, width)}
        return type(self)(self.name, **settings)

    @abstractmethod
    def read(self, files: Mapping[str, bytes]) -> Value:
        """The value of one sample from its files, {extension without dot: content}. Raises `SampleError`."""

    @classmethod
    def recognise(cls, samples: Sequence[Mapping[str, bytes]]) -> Recognised | None:
        """Whether a folder's files look like this modality's, and the settings that fit them; None if they do not.
        `fourm init` calls it for every plugin and folder. `samples` are the files of some of the folder's samples,
        {extension without dot: content}, possibly including files of other modalities.

        By default, files that the default settings can read count as weak evidence, which suffices in a folder named
        after the modality."""
        try:
            modality = cls("probe")
        except ValueError:
            return None  # a setting without a default
        candidates = [files for files in samples if contents([files], modality.spec.extensions)]
        read = usable(candidates, lambda files: (modality.read(files),))
        return Recognised(0.4, "files that it reads") if read else None

    @classmethod
    def settings_from_document(cls, name: str, content: bytes) -> Mapping[str, Any]:
        """Settings from the file `name`, one of `documents`, for a config that sets none of them. Raises ValueError if
        the file is unusable."""
        return {}

    @abstractmethod
    def write(self, value: Value) -> dict[str, bytes]:
        """The files of one sample. `read` restores the value from them, up to the format's precision."""

    # User inputs have the same meaning as the corresponding file. Each method raises `SampleError`, one line for users.

    def value(self, given: Any) -> Value:
        """Convert a user's input: a path (`os.PathLike`, or a str that looks like one), the bytes of a file, a
        `PIL.Image`, an array (NumPy, a torch tensor, or convertible to NumPy), text if the files are text, or a value.
        Raises `SampleError`."""
        if isinstance(given, str):
            if not inputs.looks_like_path(given, self.spec.extensions, typed=self.accepts_text):
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
    def accepts_text(self) -> bool:
        """Whether a value can be typed (`from_text`)."""
        return isinstance(self.spec.array, Text) or any(e in inputs.TEXT_EXTENSIONS for e in self.spec.extensions)

    def from_text(self, text: str) -> Value:
        """The value of typed text; by default that of a file with this content."""
        extension = next((e for e in self.spec.extensions if e in inputs.TEXT_EXTENSIONS), self.spec.extensions[0])
        if not self.accepts_text:
            raise SampleError(f"cannot be typed; give a file (.{', .'.join(self.spec.extensions)})")
        return self.read({extension: text.encode(errors="surrogatepass")})

    def from_picture(self, picture: Any) -> Value:
        """The value of a `PIL.Image`; by default that of a PNG file of it."""
        extension = next((e for e in self.spec.extensions if e in ("png", "webp", "jpg", "jpeg")), None)
        if extension is None:
            raise self.refusal(picture, "its files are no pictures")
        from fourm_plugins.decoding import as_png

        return self.read({extension: as_png(picture)})

    def from_array(self, array: np.ndarray) -> Value:
        """The value of an array; by default the array itself, if it is numeric."""
        return cast("Value", inputs.numbers(array, self.accepted_inputs()))

    def from_object(self, given: Any) -> Value:
        """The value of any other object; by default the object itself."""
        if given is None:
            raise self.refusal(given)
        return cast("Value", given)

    def refusal(self, given: Any, why: str = "") -> SampleError:
        """The error for an input of the wrong type: what is expected, and what was given."""
        return inputs.refusal(self.accepted_inputs(), given, why)

    def accepted_inputs(self) -> str:
        """The accepted inputs, for errors."""
        files = f"a file (.{', .'.join(self.spec.extensions)})"
        return f"{self.accepts}, or {files}" if self.accepts else files

    def aspect(self, value: Value) -> float | None:
        """Width / height of a value that covers a picture; None for any other."""
        return None

    def alternatives(self, value: Value) -> int:
        """Number of alternatives in a value as read, among which `augment` chooses by `view.variant`."""
        return 1

    @abstractmethod
    def augment(self, value: Value, view: View) -> Value:
        """Apply `view` to a value, at this modality's size. All randomness comes from the view."""

    @abstractmethod
    def normalise(self, value: Value) -> np.ndarray | str:
        """The array of an augmented value, with the shape and dtype of `spec.array`. Raises `SampleError` for a value
        that it cannot represent."""

    @abstractmethod
    def denormalise(self, array: np.ndarray | str) -> Value:
        """The value of an array with the shape and dtype of `spec.array`. Must not raise on a tokenizer's output."""

    def denormalise_scored(self, array: str, tokens: Sequence[tuple[str, float]]) -> Value:
        """The value of a generated text, from the text and the model's probability of each token. Must not raise on a
        tokenizer's output."""
        return self.denormalise(array)

    def compose(self, given: Value, generated: Value, kept: Bool[np.ndarray, "H W"]) -> Value:
        """An edited value: `given` where `kept` is True, `generated` elsewhere. Both are values at this modality's
        size; `kept` has the array's rows and columns. Values with rows and columns first are composed per pixel, others
        as arrays; override it for values that are only meaningful as a whole."""
        a: Any = given
        b: Any = generated
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape and a.shape[:2] == kept.shape:
            value = b.copy()
            value[kept] = a[kept]
            return cast("Value", value)
        return self.denormalise(np.where(kept, self.normalise(given), self.normalise(generated)))

    @property
    def reductions(self) -> tuple[How, ...]:
        """The supported ways to reduce several values to one: "mean" and "median" for quantities, "vote" for classes
        and texts."""
        return ("vote",) if isinstance(self.spec.array, (Text, ClassMap)) else ("mean", "median")

    def reduce(self, values: Sequence[Value], how: How) -> Value:
        """Reduce several values, at this modality's size, to one; `how` is one of `reductions`."""
        return cast("Value", vote(values)[0] if how == "vote" else average(values, how))

    def spread(self, values: Sequence[Value]) -> Any:
        """The disagreement of several values: float (H, W) for maps, {name: float} for named numbers, else a float. For
        quantities it is the standard deviation in the value's unit, for classes and texts the fraction that differs
        from the most common one. Twice the spread of a value and the truth is the error of the value."""
        if "vote" in self.reductions:
            return 1 - vote(values)[1]
        return deviation(values)

    @abstractmethod
    def render(self, value: Value) -> Any:
        """The value in a form for viewing: a `PIL.Image` in RGB mode, or a string."""

    def render_all(self, values: Sequence[Value]) -> list[Any]:
        """`render` values for viewing side by side. Override it if colours are relative to one picture, to choose them
        for all of `values` together."""
        return [self.render(value) for value in values]

    def legend(self, value: Value) -> Legend | None:
        """The legend of the picture that `render` makes of `value`: a `Scale` of a quantity, or a `Key` of the classes
        that occur; None for self-explanatory pictures and for text."""
        return None

    def parts(self, value: Value) -> Mapping[str, float]:
        """The parameters of a value that `fourm vary` can vary, with their current numbers, such as {"0.x": 0.4} for
        the position of the first box. Empty if there are none."""
        return {}

    def with_part(self, value: Value, part: str, number: float) -> Value:
        """`value` with a new number for one of its `parts`. Raises `SampleError` for an impossible number."""
        raise SampleError(f"no part of it can be varied by a number; {part!r} is none")

    def class_names(self) -> tuple[str, ...]:
        """Names of a class map's classes, in the order of their ids; empty if they have none."""
        return ()

    def remark(self, value: Value) -> str:
        """A remark for the user about a value from `denormalise`, such as what was lost; '' if there is none."""
        return ""

    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The modality's metrics, the most important first."""

    def network_metrics(self, model: str) -> tuple[Metric, ...]:
        """Metrics on the features of a pretrained network (a name or a folder), such as a distance between two sets of
        pictures. Raises ValueError, one line, for an unsupported network."""
        return ()

    def contrastive(self, model: str) -> Callable[[Sequence[Value]], Float[np.ndarray, "n D"]] | None:
        """A function from values to their features under a pretrained contrastive `model` (a name or a folder): float32
        unit vectors, comparable with those of other modalities under the same model. None if such models do not support
        the modality. Raises ValueError, one line, for an unsupported model."""
        return None

    def constants(self, values: Sequence[Value]) -> dict[str, Value]:
        """The best constant predictions, {description: value}, such as the median depth everywhere: baselines that a
        model must beat. Empty if no constant makes sense."""
        return {}

    def label_sources(self, model: str | None) -> tuple[str, ...]:
        """Plugins of the modalities from which `labeller` can compute this one, best first, with a pretrained `model`
        or without one. Empty if there is no labeller."""
        return ()

    def labeller(self, source: Modality[Any], model: str | None, **options: Any) -> Labeller:
        """A labeller that computes this modality's values from `source`'s. `model` is the name or folder of a
        pretrained model; None means plain geometry. Raises ValueError, one line, for an unsupported source or model."""
        raise ValueError(f"{self.name} has no labeller: it cannot be made from {source.name}")

    @abstractmethod
    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        """`n` small valid samples, as inputs of `read`; the same seed gives the same samples."""

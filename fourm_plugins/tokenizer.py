"""Tokenizer: turns the arrays of one token space into integer ids, and ids into arrays.

A kind of tokenizer is a class behind an entry point of `fourm.tokenizers.v1`; a modality's recipe names the kind and
its settings. A tokenizer is created from specs and settings, then fitted or loaded, and is pure from then on: the same
array gives the same ids, alone or in any batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel

from fourm_plugins.settings import Settings
from fourm_plugins.spec import ModalitySpec

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Tokenizer(ABC):
    """A tokenizer of one token space. `specs` are those of the modalities that use it: one, or several if it is shared;
    `settings` are those of the recipe, checked by `Settings`."""

    #: Its name in recipes and configs, the entry point's.
    kind: ClassVar[str]
    Settings: ClassVar[type[BaseModel]] = Settings
    #: Settings that hold the path of a file from which fitting starts. They are not stored: what a fitted tokenizer
    #: does depends on the file's content alone.
    path_settings: ClassVar[frozenset[str]] = frozenset()
    #: Whether the meaning of an id depends on its position; codebook use is then counted position by position.
    positional: bool = False

    def __init__(self, specs: Sequence[ModalitySpec], **settings: Any) -> None:
        spaces = {spec.token_space for spec in specs}
        if len(spaces) != 1 or None in spaces:
            raise ValueError(f"a tokenizer serves one token space, not {sorted(str(s) for s in spaces)}")
        self.specs = tuple(specs)
        self.settings: Any = self.Settings(**settings)

    def __repr__(self) -> str:
        names = ", ".join(spec.name for spec in self.specs)
        return f"<{type(self).__name__} {self.kind!r} of {names}: {self.size} ids>"

    def stored_settings(self) -> dict[str, Any]:
        """The settings as stored in files: JSON-ready, without `path_settings`."""
        return dict(self.settings.model_dump(mode="json", exclude=set(self.path_settings)))

    @property
    def spec(self) -> ModalitySpec:
        """The first modality's spec; the only one unless the token space is shared."""
        return self.specs[0]

    def serving(self, spec: ModalitySpec) -> Tokenizer:
        """This tokenizer for the arrays of `spec`, another modality of its token space; everything fitted is shared.
        The default is the tokenizer itself, which is right where all modalities' arrays are alike, as texts are.
        Raises ValueError if it cannot serve `spec`."""
        return self

    def to(self, device: Any) -> Tokenizer:
        """Move to `device`, a `torch.device` or its name, and return self. Tokenizers without torch stay as they
        are."""
        return self

    @property
    def size(self) -> int:
        """The number of ids, which are in [0, size)."""
        assert self.spec.token_space is not None
        return self.spec.token_space.size

    @property
    def scales(self) -> Sequence[range]:
        """Ranges of ids that are the steps of one quantity, in order, such as a coordinate; none by default. When the
        likeliest token is chosen, the steps of a range count together, since neighbouring ones are nearly as good."""
        return ()

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of everything that decides the ids: kind, settings and fitted state."""

    @property
    def starting_point(self) -> str:
        """Fingerprint of what fitting starts from besides arrays, such as a file in the settings; '' if nothing."""
        return ""

    @abstractmethod
    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Learn from the training arrays; each call of `arrays` starts a fresh pass. Returns figures to report, {} if
        there is nothing to learn. The engine's networks raise ValueError, since the trainer fits them: use `fourm
        tokenizer fit` or `fourm_engine.fit.fitting.fit_network(tokenizer, arrays)`."""

    @abstractmethod
    def encode(self, arrays: Sequence[Any]) -> list[Int[np.ndarray, " tokens"]]:
        """The int64 ids of arrays that are as `spec.array` describes: `layout.num_tokens` ids, or for a sequence any
        number, without the end marker."""

    @abstractmethod
    def decode(self, ids: Sequence[Int[np.ndarray, " tokens"]]) -> list[Any]:
        """The array, as `spec.array` describes, of any ids in [0, size); never raises on these."""

    def decode_expected(self, probabilities: Float[np.ndarray, "B tokens size"]) -> list[Any]:
        """The arrays of float32 distributions over ids. A tokenizer whose codes can be averaged decodes the
        probability-weighted code, any other the likeliest ids."""
        return self.decode(list(probabilities.argmax(-1)))

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the fitted state into `folder`, as data only: safetensors, JSON."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError, naming the file, if it does not fit the settings."""

    @classmethod
    def restore(cls, specs: Sequence[ModalitySpec], settings: Mapping[str, Any], folder: Path) -> Tokenizer:
        """The fitted tokenizer of stored settings and of what `save` wrote. A kind whose size follows from its settings
        overrides this, to compare them with the files before allocating memory. Raises ValueError."""
        tokenizer = cls(specs, **settings)
        tokenizer.load(folder)
        return tokenizer


class TextTokenizer(Tokenizer):
    """A tokenizer of sequences, with the special ids that span masking and left-to-right decoding need."""

    @property
    @abstractmethod
    def end_id(self) -> int:
        """The id of the end marker, which ends every sequence; `encode` leaves it out."""

    @property
    @abstractmethod
    def sentinel_ids(self) -> Sequence[int]:
        """Ids that stand for masked spans, in order of use. Span masking skips the first, as the published models
        do."""

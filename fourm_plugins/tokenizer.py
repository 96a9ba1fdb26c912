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
    `settings` are the recipe's, validated by `Settings`."""

    #: The name of the entry point, used in recipes and configs.
    kind: ClassVar[str]
    Settings: ClassVar[type[BaseModel]] = Settings
    #: Settings with the path of a file from which fitting starts. They are not stored: a fitted tokenizer only depends
    #: on the file's content.
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
        return f"<{type(self).__name__} {self.kind!r} of {names}: {self.size:,} ids>"

    def stored_settings(self) -> dict[str, Any]:
        """The settings as stored in files: JSON-ready, without `path_settings`."""
        return dict(self.settings.model_dump(mode="json", exclude=set(self.path_settings)))

    @property
    def spec(self) -> ModalitySpec:
        """The first modality's spec; the only one unless the token space is shared."""
        return self.specs[0]

    def for_spec(self, spec: ModalitySpec) -> Tokenizer:
        """This tokenizer for the arrays of `spec`, another modality of its token space; the fitted state is shared. By
        default the tokenizer itself, which is right if all modalities have the same kind of arrays, such as texts.
        Raises ValueError if it does not support `spec`."""
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
    def ordinal_ranges(self) -> Sequence[range]:
        """Ranges of ids that are consecutive steps of one quantity, such as a coordinate; none by default. Greedy
        decoding adds up the probabilities of a range, since neighbouring steps are nearly as good."""
        return ()

    def code_vectors(self) -> Float[np.ndarray, "size d"] | None:
        """For each id a vector, float32, whose distances say how alike what the ids stand for is; None by default, and
        where that depends on the position. For `loss.soft_targets`."""
        return None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of everything that determines the ids: kind, settings and fitted state."""

    @property
    def starting_point(self) -> str:
        """Fingerprint of the inputs of fitting other than arrays, such as a file in the settings; '' if none."""
        return ""

    @abstractmethod
    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Fit to the training arrays; each call of `arrays` starts a new pass. Returns figures to report, {} if there
        is nothing to fit. The engine's networks raise ValueError, since the trainer fits them: use
        `fourm tokenizer fit` or `fourm_engine.fit.fitting.fit_network(tokenizer, arrays)`."""

    @abstractmethod
    def encode(self, arrays: Sequence[Any]) -> list[Int[np.ndarray, " tokens"]]:
        """The int64 ids of arrays that match `spec.array`: `layout.num_tokens` ids or, for a sequence, any number,
        without the end marker."""

    @abstractmethod
    def decode(self, ids: Sequence[Int[np.ndarray, " tokens"]]) -> list[Any]:
        """The arrays, matching `spec.array`, of any ids in [0, size). Must not raise on these."""

    def decode_expected(self, probabilities: Float[np.ndarray, "B tokens size"]) -> list[Any]:
        """The arrays of float32 distributions over ids. A tokenizer whose codes can be averaged decodes the
        probability-weighted code, any other the most likely ids."""
        return self.decode(list(probabilities.argmax(-1)))

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the fitted state to `folder`, as data only: safetensors, JSON."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read the state written by `save`. Raises ValueError, naming the file, if it does not fit the settings."""

    @classmethod
    def restore(cls, specs: Sequence[ModalitySpec], settings: Mapping[str, Any], folder: Path) -> Tokenizer:
        """The fitted tokenizer, from stored settings and the state written by `save`. Override it for a kind whose size
        follows from its settings, to compare them with the files before allocating memory. Raises ValueError."""
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
        """Ids that represent masked spans, in order of use. Span masking skips the first, like the published models."""

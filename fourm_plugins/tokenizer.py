"""Tokenizer: arrays of one token space to integer ids and back.

A kind of tokenizer is a class behind an entry point of `fourm.tokenizers.v1`; a modality names the kind and its
settings in its recipe. Every tokenizer is created from spec and settings, fitted or loaded, and from then on pure: the
same array gives the same ids, alone or in any batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel

from fourm_plugins.modality import Settings
from fourm_plugins.spec import ModalitySpec

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Tokenizer(ABC):
    """`specs` are the modalities that use the token space: one, or several where it is shared."""

    kind: ClassVar[str]
    Settings: ClassVar[type[BaseModel]] = Settings
    #: Settings that hold the path of a file that fitting starts from. What is learned does not depend on the path, and
    #: a fitted tokenizer is stored without it.
    path_settings: ClassVar[frozenset[str]] = frozenset()
    #: Whether an id means something else at each position; the use of codes is then counted position by position.
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
        """The settings as files hold them: JSON, without `path_settings`."""
        return dict(self.settings.model_dump(mode="json", exclude=set(self.path_settings)))

    @property
    def spec(self) -> ModalitySpec:
        """The first modality's spec; the only one, unless the space is shared."""
        return self.specs[0]

    def serving(self, spec: ModalitySpec) -> Tokenizer:
        """This tokenizer for the arrays and tokens of `spec`, which uses its token space; shares all that was fitted.
        By default the tokenizer itself, for arrays that look alike in all modalities, as texts do. Raises ValueError
        where it cannot serve them."""
        return self

    def to(self, device: Any) -> Tokenizer:
        """Compute on `device`, a `torch.device` or its name, and return self; without torch nothing changes."""
        return self

    @property
    def size(self) -> int:
        """Ids are in [0, size)."""
        assert self.spec.token_space is not None
        return self.spec.token_space.size

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of all that decides the ids: kind, settings and fitted state."""

    @property
    def starting_point(self) -> str:
        """Fingerprint of what fitting starts from beside the arrays, such as a file in the settings; "" for nothing."""
        return ""

    @abstractmethod
    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        """Learn from the training arrays; each call of `arrays` starts a fresh pass. Returns what to report. A
        tokenizer with nothing to learn returns {}. The engine's networks raise ValueError, since the trainer fits
        them: `fourm tokenizer fit`, or `fourm_engine.fit.fit_network(tokenizer, arrays)`."""

    @abstractmethod
    def encode(self, arrays: Sequence[Any]) -> list[Int[np.ndarray, " tokens"]]:
        """Ids, int64, of arrays as `spec.array` describes them: `layout.num_tokens`, or of a sequence any, without end
        marker."""

    @abstractmethod
    def decode(self, ids: Sequence[Int[np.ndarray, " tokens"]]) -> list[Any]:
        """Arrays as `spec.array` describes them, of any ids in [0, size); never raises on those."""

    def decode_expected(self, probabilities: Float[np.ndarray, "B tokens size"]) -> list[Any]:
        """Arrays of float32 distributions over ids. A tokenizer whose codes can be averaged decodes the
        probability-weighted code; others decode the likeliest ids."""
        return self.decode(list(probabilities.argmax(-1)))

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the fitted state below `folder`. Data only: safetensors, JSON."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError naming the file where it does not fit the settings."""

    @classmethod
    def restore(cls, specs: Sequence[ModalitySpec], settings: Mapping[str, Any], folder: Path) -> Tokenizer:
        """A fitted tokenizer from stored settings and what `save` wrote. A kind whose size follows from its settings
        overrides it, to compare them with the files before it takes memory. Raises ValueError."""
        tokenizer = cls(specs, **settings)
        tokenizer.load(folder)
        return tokenizer


class TextTokenizer(Tokenizer):
    """A tokenizer of sequences, with the special ids that span masking and left-to-right decoding need."""

    @property
    @abstractmethod
    def end_id(self) -> int:
        """Closes every sequence."""

    @property
    @abstractmethod
    def sentinel_ids(self) -> Sequence[int]:
        """Ids that stand for a masked span, in the order in which they are used. The first is never used by span
        masking (the published models start at the second)."""

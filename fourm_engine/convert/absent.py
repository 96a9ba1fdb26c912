"""Stand-ins for tokenizers that a published model lacks: token ids pass through; encoding and decoding raise.

In: the specs of a token space. Out: a `Tokenizer` with the special ids of the published vocabulary, and no more.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fourm_engine.generate.result import Generated
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer

#: The published vocabulary: [PAD] 0, [UNK] 1, [SOS] 2, [EOS] 3, then 200 sentinels.
END_ID, SENTINEL_IDS = 3, tuple(range(4, 204))


class MissingTokenizerError(ValueError):
    """An operation needs a tokenizer that was not given."""


class AbsentTokenizer(Tokenizer):
    """The stand-in for a grid or vector."""

    kind = "absent"

    @property
    def fingerprint(self) -> str:
        return "absent"

    def _refuse(self) -> NoReturn:
        names = " and ".join(repr(spec.name) for spec in self.specs)
        what = "wordpiece vocabulary (JSON)" if isinstance(self, TextTokenizer) else "tokenizer"
        raise MissingTokenizerError(
            f"{names} has no tokenizer here, so that only token ids go in and come out; name file, folder or Hub id "
            f"of its {what}: tokenizers={{{self.spec.name!r}: …}}, on the command line --tokenizer {self.spec.name}=…"
        )

    def fit(self, arrays: Callable[[], Iterable[Any]]) -> dict[str, float]:
        self._refuse()

    def encode(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        self._refuse()

    def decode(self, ids: Sequence[np.ndarray]) -> list[Any]:
        self._refuse()

    def save(self, folder: Path) -> None:
        self._refuse()

    def load(self, folder: Path) -> None:
        self._refuse()


class AbsentTextTokenizer(AbsentTokenizer, TextTokenizer):
    """The stand-in for sequences."""

    @property
    def end_id(self) -> int:
        return END_ID

    @property
    def sentinel_ids(self) -> Sequence[int]:
        return SENTINEL_IDS


class Undecoded(Generated):
    """Tokens without a value: accessing it raises `MissingTokenizerError`."""

    def __init__(self, modality: Modality, tokens: np.ndarray, tokenizer: AbsentTokenizer) -> None:
        object.__setattr__(self, "modality", modality)
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "_tokenizer", tokenizer)

    def __getattr__(self, name: str) -> Any:
        if name == "value":  # the one field that was not set
            self._tokenizer.decode([self.tokens])
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<Undecoded {self.modality.name!r}: {len(self.tokens):,} tokens, no tokenizer>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def absent_tokenizers(specs: Sequence[ModalitySpec]) -> AbsentTokenizer:
    """The stand-in of one token space."""
    return (AbsentTextTokenizer if specs[0].layout.kind == "sequence" else AbsentTokenizer)(specs)

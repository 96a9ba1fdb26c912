"""The text vocabulary that captions, boxes and other text modalities share.

They share one WordPiece vocabulary, so that a word learnt from one is known in the others. Every text modality takes
these settings under the key `text`; a config that changes them changes them for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from fourm_plugins.settings import Settings
from fourm_plugins.spec import TokenizerRecipe, TokenSpace


class TextSettings(Settings):
    """The shared token space `text`."""

    small: ClassVar[Mapping[str, Any]] = {"vocabulary_size": 512, "coordinate_bins": 32}

    #: Largest size of the vocabulary: special tokens, sentinels, coordinates and word pieces.
    vocabulary_size: int = Field(default=30_000, ge=2)
    #: Steps into which box coordinates divide the width and the height of a picture.
    coordinate_bins: int = Field(default=1000, ge=2)
    #: A vocabulary to load instead of fitting one, in the JSON of the `tokenizers` library.
    vocabulary: str | None = None
    #: Further settings of the tokenizer; `kind` chooses another kind than `wordpiece`.
    tokenizer: dict[str, Any] = Field(default_factory=dict)

    def token_space(self) -> TokenSpace:
        return TokenSpace(name="text", size=self.vocabulary_size, shared=True)

    def recipe(self) -> TokenizerRecipe:
        defaults = {"coordinate_bins": self.coordinate_bins, "vocabulary": self.vocabulary}
        return TokenizerRecipe.choose(self.tokenizer, kind="wordpiece", **defaults)

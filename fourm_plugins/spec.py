"""What a modality is, as data: frozen pydantic models that import neither torch nor the engine.

A `ModalitySpec` states each property once. Everything that follows from it (number of tokens, patch size, rows of the
vocabulary) is derived, so that a spec cannot contradict itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[a-z][a-z0-9_]*(@[a-z0-9_]+)?$"
#: "." or a relative path without parts that begin with a dot or contain line breaks.
SOURCE_PATTERN = r"^(\.|[^./\\\x00-\x1f][^/\\\x00-\x1f]*(/[^./\\\x00-\x1f][^/\\\x00-\x1f]*)*)$"


class Frozen(BaseModel):
    """Immutable; rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


# Layouts: how the tokens of a sample are arranged, which determines how they are masked and decoded.


class Grid(Frozen):
    """`height` x `width` tokens in row-major order, decoded in parallel."""

    kind: Literal["grid"] = "grid"
    height: int = Field(ge=1, le=1024)
    width: int = Field(ge=1, le=1024)

    @property
    def num_tokens(self) -> int:
        return self.height * self.width


class Sequence(Frozen):
    """At most `max_tokens` tokens decoded left to right; masked in spans marked by sentinels."""

    kind: Literal["sequence"] = "sequence"
    max_tokens: int = Field(ge=1, le=8192)

    @property
    def num_tokens(self) -> int:
        return self.max_tokens


class Vector(Frozen):
    """`length` unordered tokens, each with a learned position; decoded in parallel."""

    kind: Literal["vector"] = "vector"
    length: int = Field(ge=1, le=4096)

    @property
    def num_tokens(self) -> int:
        return self.length


Layout = Annotated[Grid | Sequence | Vector, Field(discriminator="kind")]


# Arrays: the output of `Modality.normalise` and the input of a tokenizer (or, for continuous inputs, of the model).


class FeatureMap(Frozen):
    """float32 (channels, height, width): pictures, depth, normals, feature maps. Finite, except that with `gaps` NaN
    marks missing measurements: tokenizers see them as 0 and do not learn from them."""

    kind: Literal["feature_map"] = "feature_map"
    channels: int = Field(ge=1)
    height: int = Field(ge=1, le=16384)
    width: int = Field(ge=1, le=16384)
    gaps: bool = False


class ClassMap(Frozen):
    """int64 (height, width) of class ids in [0, classes), and -1 for pixels without a class."""

    kind: Literal["class_map"] = "class_map"
    classes: int = Field(ge=2)
    height: int = Field(ge=1, le=16384)
    width: int = Field(ge=1, le=16384)


class FeatureVector(Frozen):
    """float32 (size,): a global feature, a few scalars. Finite, except that with `gaps` NaN marks missing numbers."""

    kind: Literal["feature_vector"] = "feature_vector"
    size: int = Field(ge=1)
    gaps: bool = False


class Text(Frozen):
    """str of at most `max_characters` characters."""

    kind: Literal["text"] = "text"
    max_characters: int = Field(default=4096, ge=1)


Array = Annotated[FeatureMap | ClassMap | FeatureVector | Text, Field(discriminator="kind")]


class TokenSpace(Frozen):
    """`size` token ids under one name. A `shared` space may be used by several modalities (captions and boxes share
    one WordPiece vocabulary); any other belongs to exactly one, and a second owner is a conflict."""

    name: str = Field(pattern=NAME_PATTERN)
    size: int = Field(ge=2, le=1 << 20)
    shared: bool = False


class TokenizerRecipe(Frozen):
    """The kind of tokenizer (entry point of `fourm.tokenizers.v1`) that turns the array into tokens, and its
    settings."""

    kind: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def choose(cls, section: Mapping[str, Any], *, kind: str, **defaults: Any) -> TokenizerRecipe:
        """The recipe from a config's `tokenizer` section, whose settings override the `defaults` of `kind`. If its key
        `kind` names another kind, only the section's settings apply."""
        given = dict(section)
        chosen = given.pop("kind", kind)
        return cls(kind=chosen, settings=defaults | given if chosen == kind else given)


class ModalitySpec(Frozen):
    """One modality, as configured. `token_space=None`: continuous input, projected, which cannot be a target."""

    name: str = Field(pattern=NAME_PATTERN)
    layout: Layout
    array: Array
    token_space: TokenSpace | None = None
    tokenizer: TokenizerRecipe | None = None
    input: bool = True
    target: bool = True
    #: Folder of the data set that this modality reads, `root/<source>/`; "." is `root` itself. Two modalities may read
    #: one source, as the pixels and the tokens of a picture do.
    source: str = Field(pattern=SOURCE_PATTERN)
    #: File extensions that `read` takes, lower case, without the dot.
    extensions: tuple[str, ...] = Field(min_length=1)
    #: Modalities of one group share the crop and flip of a sample; one without a group is always seen whole, and never
    #: flipped.
    alignment: str | None = "image"
    #: True if a probability-weighted mean of codes is a better answer than the likeliest code (depth, colours); False
    #: if codes must not be mixed (classes).
    expected_decoding: bool = False
    #: Masker to use in place of the layout's default (an entry point of `fourm.maskers.v1`).
    masker: str | None = None
    #: Name of its domain in the published 4M models, such as "tok_depth@224".
    published_name: str | None = None
    #: SPDX identifier of what the plugin ships: code, weights, class names.
    licence: str = "unspecified"
    description: str = ""

    def __repr__(self) -> str:
        roles = " and ".join(role for role in ("input", "target") if getattr(self, role))
        ids = (
            "continuous" if self.token_space is None else f"{self.token_space.size:,} ids of {self.token_space.name!r}"
        )
        return f"<ModalitySpec {self.name!r}: {self.layout!r}, {self.array!r}, {ids}; {roles}>"

    @property
    def continuous(self) -> bool:
        """Whether it is given to the encoder as numbers rather than as tokens."""
        return self.token_space is None

    @property
    def masker_kind(self) -> str:
        """Name of its masker, an entry point of `fourm.maskers.v1`."""
        return self.masker or ("span" if isinstance(self.layout, Sequence) else "grid")

    @property
    def files(self) -> tuple[str, tuple[str, ...]]:
        """The files to read; equal for two modalities that read the same ones."""
        return self.source, self.extensions

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) in pixels of the patch behind one token of a grid."""
        assert isinstance(self.layout, Grid)
        assert isinstance(self.array, (FeatureMap, ClassMap))
        return self.array.height // self.layout.height, self.array.width // self.layout.width

    @property
    def pixel_patch(self) -> tuple[int, int] | None:
        """`patch` of a continuous grid with several pixels per token; None for other modalities."""
        if not (self.continuous and isinstance(self.layout, Grid)):
            return None
        return self.patch if self.patch != (1, 1) else None

    @property
    def patch_dim(self) -> int:
        """Numbers per token of a continuous modality; 0 for one with ids."""
        if not self.continuous:
            return 0
        if isinstance(self.array, FeatureMap):
            return self.array.channels * self.patch[0] * self.patch[1]
        assert isinstance(self.array, FeatureVector)
        return self.array.size // self.layout.num_tokens

    def on_grid(self, height: int, width: int) -> ModalitySpec:
        """The same modality on a grid of `height` x `width` tokens, with the same patches."""
        (rows, columns), array = self.patch, self.array
        assert isinstance(array, (FeatureMap, ClassMap))
        array = array.model_copy(update={"height": height * rows, "width": width * columns})
        return self.model_copy(update={"layout": Grid(height=height, width=width), "array": array})

    @model_validator(mode="after")
    def _consistent(self) -> ModalitySpec:
        if (self.token_space is None) != (self.tokenizer is None):
            raise ValueError(f"{self.name}: token_space and tokenizer go together; give both or neither")
        if self.continuous and self.target:
            raise ValueError(f"{self.name}: a continuous modality has no tokens to predict; set target=False")
        if not (self.input or self.target):
            raise ValueError(f"{self.name}: neither input nor target; set one of them")
        if isinstance(self.layout, Sequence) != isinstance(self.array, Text):
            raise ValueError(f"{self.name}: a sequence holds text, and text is a sequence")
        if isinstance(self.layout, Grid):
            if not isinstance(self.array, (FeatureMap, ClassMap)):
                raise ValueError(f"{self.name}: a grid needs a feature map or a class map, not {self.array.kind}")
            if self.array.height % self.layout.height or self.array.width % self.layout.width:
                raise ValueError(
                    f"{self.name}: a grid of {self.layout.height}x{self.layout.width} tokens does not divide "
                    f"{self.array.height}x{self.array.width} pixels"
                )
        if self.continuous and isinstance(self.array, FeatureVector) and self.array.size % self.layout.num_tokens:
            raise ValueError(f"{self.name}: {self.array.size} features do not divide into {self.layout.num_tokens}")
        if self.continuous and not isinstance(self.array, (FeatureMap, FeatureVector)):
            raise ValueError(f"{self.name}: continuous input needs a feature map or a feature vector")
        if self.continuous and isinstance(self.array, FeatureVector) and self.array.gaps:
            raise ValueError(f"{self.name}: continuous input has no number for a gap in a feature vector")
        return self

    def fingerprint(self) -> str:
        """Hex digest of every field, the same in every process."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]

"""The pluggy hooks. An entry point may name a class (the usual way: the class itself is the plugin), or a module whose
functions are marked with `@fourm_plugins.hookimpl` where one distribution decides at activation what to offer.

A function that is marked, or whose name starts with `fourm_`, and that is none of these is an error at activation, not
silence; so is one that takes other arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from fourm_plugins.masker import Masker
    from fourm_plugins.modality import Modality
    from fourm_plugins.tokenizer import Tokenizer

hookspec = pluggy.HookspecMarker("fourm")
hookimpl = pluggy.HookimplMarker("fourm")


@hookspec(firstresult=True)
def fourm_modality(name: str) -> type[Modality] | None:
    """Group `fourm.modalities.v1`: the class of modality `name`, the entry point's name."""


@hookspec(firstresult=True)
def fourm_tokenizer(kind: str) -> type[Tokenizer] | None:
    """Group `fourm.tokenizers.v1`: the class of tokenizer `kind`, the entry point's name."""


@hookspec(firstresult=True)
def fourm_masker(kind: str) -> type[Masker] | None:
    """Group `fourm.maskers.v1`: the class of masker `kind`, the entry point's name."""

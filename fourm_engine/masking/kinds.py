"""The masker of a modality: the one that its spec names, or its layout's default. Both are plugins, resolved by
name."""

from __future__ import annotations

from fourm_plugins.spec import ModalitySpec

_OF_LAYOUT = {"sequence": "span", "grid": "grid", "vector": "grid"}


def masker_kind(spec: ModalitySpec) -> str:
    """Name of an entry point of `fourm.maskers.v1`."""
    return spec.masker or _OF_LAYOUT[spec.layout.kind]

"""Fitted tokenizers on disk, as data that can be read without the code that wrote it.

    <folder>/<token space>/tokenizer.json         kind, distribution, settings, specs, the modalities'
                                                  identities, fingerprint, how it was fitted
    <folder>/<token space>/weights.safetensors    or whatever `Tokenizer.save` of the kind writes

A kind is resolved by name among the installed plugins; nothing that is read refers to code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fourm_engine.files import replacing_folder
from fourm_engine.identity import RECIPE, Difference, differences, refuse
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.vit import position_grid
from fourm_plugins.errors import check_permitted, one_line
from fourm_plugins.explain import explain
from fourm_plugins.manager import PluginError, PluginManager
from fourm_plugins.modality import Modality
from fourm_plugins.spec import ModalitySpec
from fourm_plugins.tokenizer import Tokenizer

DOCUMENT = "tokenizer.json"
FORMAT = 2
MAX_DOCUMENT_BYTES = 1 << 24
REFIT = "run `fourm tokenizer fit --refit`, and make tokens and train again"


def save_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    *,
    manager: PluginManager | None = None,
    modalities: Iterable[Modality] = (),
    fit: dict[str, Any] | None = None,
) -> None:
    """Write a fitted tokenizer; `folder` appears, or changes, only when complete.

    Args:
        manager: determines which distribution provides the kind; by default the installed plugins.
        modalities: those that it was fitted for, so that it is rejected once their arrays change.
        fit: JSON describing what it was fitted on, stored alongside."""
    plugin = (manager or PluginManager()).find("tokenizer", tokenizer.kind)
    document = {
        "format": FORMAT,
        "kind": tokenizer.kind,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "settings": tokenizer.stored_settings(),
        "specs": [spec.model_dump(mode="json") for spec in tokenizer.specs],
        "modalities": {modality.name: modality.identity() for modality in modalities},
        "fingerprint": tokenizer.fingerprint,
        "fit": fit or {},
    }
    with replacing_folder(folder) as temporary:
        tokenizer.save(temporary)
        (temporary / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_document(folder: Path) -> dict[str, Any] | None:
    """`tokenizer.json` of a folder; None if there is none. Raises ValueError if it cannot be read."""
    path = folder / DOCUMENT
    if not path.is_file():
        return None
    check_permitted(path)
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}, this version reads {FORMAT}")
        wanted = {"kind": str, "distribution": str, "version": str, "settings": dict, "specs": list}
        wanted |= {"modalities": dict, "fingerprint": str, "fit": dict}
        for key, kind in wanted.items():
            if not isinstance(document[key], kind):
                raise ValueError(f"{key} is of type {type(document[key]).__name__}")
        if not all(isinstance(identity, dict) for identity in document["modalities"].values()):
            raise ValueError("modalities are not of type dict")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: not a tokenizer's description: {why[:200]}; fit it again") from None
    return document


def load_tokenizer(
    folder: Path, specs: Sequence[ModalitySpec], manager: PluginManager, *, modalities: Iterable[Modality] = ()
) -> Tokenizer:
    """The fitted tokenizer of one token space, for the modalities `specs` that use it. Raises ValueError if it is
    missing, damaged, of a kind that is not installed, fitted for other arrays, or fitted for `modalities` with other
    settings."""
    document = read_document(folder)
    names = ", ".join(spec.name for spec in specs)
    if document is None:
        absent = "" if folder.parent.is_dir() else f", there is no folder {folder.parent}"
        raise ValueError(f"{folder}: no fitted tokenizer for {names}{absent}; run `fourm tokenizer fit`")
    try:
        cls = manager.tokenizer_class(document["kind"])
    except PluginError as error:
        package, version = document["distribution"], document["version"]
        raise ValueError(
            f"{folder}: tokenizer of kind {document['kind']!r} was saved by {package} {version}, which is not "
            f"usable here (pip install {package}): {error}"
        ) from None
    try:
        stored = [ModalitySpec.model_validate(raw) for raw in document["specs"]]
    except ValueError as error:
        reason = one_line(error)
        raise ValueError(f"{folder / DOCUMENT}: no spec of a modality: {reason:.300}; fit it again") from None
    resizable = _serves_any_size(cls, document["settings"])
    for modality in modalities:
        refuse(settings_changed(document, modality, any_size=resizable), where=folder, remedy=REFIT)
    for spec in specs:
        _check_same_arrays(folder, stored, spec, resizable=resizable)
    try:
        tokenizer = cls.restore(specs, document["settings"], folder)
    except ValidationError as error:
        reasons = "; ".join(explain(error, cls.Settings))
        raise ValueError(f"{folder}: settings that do not fit {names}: {reasons}") from error
    except TypeError as error:  # a key that is not a setting
        raise ValueError(f"{folder}: settings that do not fit {names}: {one_line(error)}") from error
    if tokenizer.fingerprint != document["fingerprint"]:
        here = manager.find("tokenizer", document["kind"])
        now, then = f"{here.distribution} {here.version}", f"{document['distribution']} {document['version']}"
        package = f"the code of {now} was changed" if now == then else f"{then} saved it and {now} loads it"
        raise ValueError(
            f"{folder}: the tokenizer of {names} is not the one that was saved (fingerprint "
            f"{tokenizer.fingerprint[:12]}, expected {document['fingerprint'][:12]}): its files were changed, or "
            f"{package}; fit it again"
        )
    return tokenizer


def settings_changed(document: Mapping[str, Any], modality: Modality, *, any_size: bool = False) -> list[Difference]:
    """How a modality differs from those that the tokenizer of `document` was fitted for; one that joined later must
    have the same recipe. `any_size`: whether a picture may be of another size."""
    stored = document["modalities"]
    if modality.name in stored:
        return differences(stored[modality.name], modality, ignore={"image_size"} if any_size else ())
    known = next(iter(stored.values()), None)
    return [] if known is None else differences(known, modality, only=f"{RECIPE}.")


def load_tokenizers(
    folder: Path,
    spaces: Mapping[str, Sequence[ModalitySpec]],
    manager: PluginManager,
    *,
    modalities: Mapping[str, Modality],
) -> dict[str, Tokenizer]:
    """Modality name -> tokenizer, for every modality that has tokens; those of one token space share the fitted state.

    Args:
        spaces: token space -> the specs that use it (`Modalities.token_spaces`).
        modalities: those that use them; their settings must be those that the tokenizer was fitted under."""
    tokenizers: dict[str, Tokenizer] = {}
    for space, specs in spaces.items():
        members = [modalities[spec.name] for spec in specs]
        tokenizer = load_tokenizer(folder / space, specs, manager, modalities=members)
        tokenizers.update((spec.name, tokenizer.for_spec(spec)) for spec in specs)
    return tokenizers


def load_fitted(
    folder: Path,
    spaces: Mapping[str, Sequence[ModalitySpec]],
    manager: PluginManager,
    *,
    modalities: Mapping[str, Modality],
) -> tuple[dict[str, Tokenizer], dict[str, str]]:
    """Like `load_tokenizers`, for the usable ones; and token space -> error for the others."""
    tokenizers, unusable = dict[str, Tokenizer](), dict[str, str]()
    for space, specs in spaces.items():
        try:
            tokenizers |= load_tokenizers(folder, {space: specs}, manager, modalities=modalities)
        except ValueError as error:
            unusable[space] = str(error)
    return tokenizers, unusable


def _serves_any_size(cls: type[Tokenizer], settings: dict[str, Any]) -> bool:
    try:
        return issubclass(cls, NeuralTokenizer) and position_grid(cls.Settings(**settings)) is not None
    except (ValidationError, TypeError):  # reported when the tokenizer is constructed
        return False


def _check_same_arrays(folder: Path, stored: Sequence[ModalitySpec], spec: ModalitySpec, *, resizable: bool) -> None:
    """Check that the tokenizer was fitted for the modality's arrays, tokens and ids; `resizable`: for its patches."""
    fitted = next((other for other in stored if other.name == spec.name), None)
    if fitted is None:
        if spec.layout.kind == "sequence" or not stored:
            return  # joined a shared space later; its tokens are text, which any modality of text can use
        fitted = stored[0]  # likewise, a picture of another size
    facts = [_facts(fitted, resizable=resizable), _facts(spec, resizable=resizable)]
    for what, was in facts[0].items():
        now = facts[1].get(what)
        if was != now:
            raise ValueError(
                f"{folder}: fitted for {fitted.name} with {what} {was!r}, which is now {now!r}; restore the modality's "
                f"settings or run `fourm tokenizer fit` again"
            )


def _facts(spec: ModalitySpec, *, resizable: bool) -> dict[str, Any]:
    """The properties that must not change."""
    if resizable and spec.layout.kind == "grid":
        assert spec.token_space is not None
        return {"patches of": spec.on_grid(1, 1).array, "number of codes": spec.token_space.size}
    facts: dict[str, Any] = {"array": spec.array}
    if spec.layout.kind != "sequence":
        facts["layout"] = spec.layout
    return facts | {"token_space": spec.token_space}

"""Implements `fourm data show`: shows one sample as a run sees it.

The sample is read as in training, through the run's store and masker, so it is exactly the one trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.data_store import DataStore
from fourm_engine.data.mixture import Mixture
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.names import shown
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.data.sets import DataSet, all_sets
from fourm_engine.data.splits import samples_of
from fourm_engine.data.views import DrawnViews, SampleViews, ViewDrawer, view_of
from fourm_engine.evaluate.masks import counts, in_words, overlay, spans, states
from fourm_engine.evaluate.sample_sheet import ShownModality, ShownSample
from fourm_engine.modalities import Modalities, activate_kinds, load_manager
from fourm_engine.recipes.config import RunConfig
from fourm_engine.tokenizers.store import load_fitted
from fourm_engine.yaml_config import validated
from fourm_plugins import calls
from fourm_plugins.counting import counted
from fourm_plugins.modality import Modality
from fourm_plugins.spec import Grid
from fourm_plugins.suggest import nearest_few
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer
from fourm_plugins.view import View


def show(
    config: RunConfig, name: str, *, view: int | None = None, epoch: int = 0, seed: int | None = None
) -> ShownSample:
    """Sample `name` of the training or validation data, with the mask of its position in `epoch`.

    Args:
        view: a view to show instead of the one drawn at that position.
        seed: seed of order, views and masks, instead of the config's.

    Raises ValueError if the sample or view does not exist, or the sample cannot be used."""
    if seed is not None:
        config = validated(RunConfig, config.model_dump() | {"seed": seed}, "")
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    folder, spaces = config.tokenizers.folder, modalities.token_spaces
    tokenizers, lacking = load_fitted(folder, spaces, manager, modalities=modalities)
    if lacking:
        return _unmasked(config, modalities, tokenizers, name, view or 0, list(lacking.values()))
    activate_kinds(modalities, manager, maskers=True)
    known = set[str]()
    for part, training in dict.fromkeys((one.part, one.training) for one in _sets(config, modalities)):
        vocabulary = modalities.vocabulary()
        samples = config.open_samples(modalities, tokenizers, manager, vocabulary, training=training)
        whole = samples.store
        for at, store in enumerate(whole.stores.values() if isinstance(whole, Mixture) else [whole]):
            assert isinstance(store, DataStore)
            sample = samples_of([name], store.names).get(name)
            if sample is None:
                known.update(store.names)
                continue
            _check_view(view or 0, store.views, part)
            row = store.names.index(sample)
            position = samples.order.position(whole.row_of(at, row) if isinstance(whole, Mixture) else row, epoch)
            return _shown(config, modalities, tokenizers, samples, position, view, store, row, part)
    raise _no_sample(name, known)


def _shown(
    config: RunConfig,
    modalities: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    samples: MaskedSamples,
    position: int,
    chosen: int | None,
    store: DataStore,
    row: int,
    part: str,
) -> ShownSample:
    """The sample at a position of a run, through the `chosen` view. `row`: its row in `store`, the data set that it is
    of. Raises ValueError if it is never used."""
    sample, read = store.names[row], samples.read(position, chosen)
    if read.row != samples.order.row(position):  # another sample replaced it
        there = ", ".join(sorted(store.has(row))) or "nothing that can be read"
        raise ValueError(
            f"{shown(sample)} is never trained on: it has {there}, and no component of masking.mixture has both inputs "
            f"and targets among these"
        )
    packed, drawn = samples.mask([read.sample])[0], read.sample.drawn
    view, vocabulary, raw = read.view % store.views, samples.vocabulary, store.raw
    has = store.has(row) | (raw.data.has(sample) if raw else set())
    crops = raw.seen.get(sample, view) if raw is not None and has else {}
    rows = []
    for name in sorted(has):
        spec, remark = modalities[name].spec, ""
        file, crop, seen, reason = _pictures(raw.data if raw else None, sample, name, crops, view)
        remark = next((bad.reason for bad in read.bad if bad.modality == name), reason)
        content, decoded = read.sample.contents.get(name), None
        masked, states_of, words = None, None, tuple[str, ...]()
        if content is None and not remark and name in store.has(row):
            with suppress(BadFile):
                content = store.load(row, name, view)
        if content is not None and name in tokenizers:
            decoded = _decoded(modalities[name], tokenizers[name], content)
            seen = decoded if seen is None else seen
        tokenizer = tokenizers.get(name)
        if isinstance(tokenizer, TextTokenizer):
            words = spans(packed, vocabulary, name, tokenizer)
        else:
            states_of = states(packed, vocabulary, name, spec.layout.num_tokens)
            if isinstance(spec.layout, Grid) and seen is not None and not isinstance(seen, str):
                masked = overlay(seen, states_of.reshape(spec.layout.height, spec.layout.width))
            else:
                words = (in_words(states_of),)
        rows.append(
            ShownModality(
                name,
                tokens=len(content) if content is not None else None,
                budgets=(drawn.inputs.get(name, 0), drawn.targets.get(name, 0)),
                taken=counts(packed, vocabulary, name),
                states=states_of,
                file=file,
                crop=crop,
                seen=seen,
                decoded=decoded,
                masked=masked,
                words=words,
                remark=remark,
            )
        )
    folder = raw.data.root if raw else store.tokens.folder if store.tokens else ""
    return ShownSample(
        sample,
        part,
        str(folder),
        config.seed,
        view,
        store.views,
        _used(crops, modalities, has),
        rows,
        position=position,
        epoch=position // len(samples),
        component=packed.component,
        totals=(packed.encoder.shape[1], packed.decoder.shape[1]),
        notes=[f"lacks {', '.join(absent)}"] if (absent := sorted(modalities.keys() - has)) else [],
    )


def _check_view(view: int, views: int, part: str) -> None:
    if not 0 <= view < views:
        raise ValueError(f"view {view}: {part} has {counted(views, 'view')} per sample, counted from 0")


def _used(crops: SampleViews, modalities: Mapping[str, Modality], has: Collection[str]) -> SampleViews:
    """The crops that apply to the sample's modalities."""
    groups = {modalities[name].spec.alignment for name in has}
    return {group: view for group, view in crops.items() if group in groups}


def _decoded(modality: Modality, tokenizer: Tokenizer, ids: np.ndarray) -> Any:
    return calls.render(modality, calls.denormalise(modality, calls.decode(tokenizer, [ids])[0]))


def _pictures(
    data: AlignedData | None, sample: str, name: str, crops: SampleViews, number: int
) -> tuple[Any, View | None, Any, str]:
    """(the value as read; a picture's crop; the value as the model sees it; the reason if these are missing)."""
    if data is None or name not in data.has(sample):
        return None, None, None, ""
    modality = data.modalities[name]
    view = view_of(modality.spec, crops, number)
    try:
        value = data.value(sample, name)
        crop = view if modality.spec.alignment is not None and modality.aspect(value) is not None else None
        array = data.normalise(sample, name, data.augment(sample, name, value, view))
    except BadFile as bad:
        return None, None, None, f"cannot be used: {bad.where}: {bad.reason}"
    seen = calls.denormalise(modality, array)
    return calls.render(modality, value), crop, calls.render(modality, seen), ""


def _unmasked(
    config: RunConfig,
    modalities: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    name: str,
    view: int,
    lacking: list[str],
) -> ShownSample:
    """The sample's files and crops, without a mask, since masking needs all tokenizers."""
    known = set[str]()
    for one in _sets(config, modalities):
        data = AlignedData.from_config(one.modalities, one.config, training=one.training)
        if (sample := samples_of([name], data.names).get(name)) is None:
            known.update(data.names)
            continue
        drawer = ViewDrawer.from_config(one.modalities, one.config, training=one.training, seed=config.seed)
        seen = DrawnViews(drawer, data, one.config.views if one.training else 1)
        _check_view(view, seen.views, one.part)
        crops = seen.get(sample, view)
        rows, has = [], data.has(sample)
        for modality in sorted(has):
            file, crop, picture, reason = _pictures(data, sample, modality, crops, view)
            decoded = None
            if modality in tokenizers and not reason:
                array = data.array(sample, modality, view_of(one.modalities[modality].spec, crops, view))
                ids = calls.encode(tokenizers[modality], [array])[0]
                decoded = _decoded(modalities[modality], tokenizers[modality], ids)
            rows.append(ShownModality(modality, file=file, crop=crop, seen=picture, decoded=decoded, remark=reason))
        crops = _used(crops, modalities, has)
        notes = [f"no mask: {reason}" for reason in lacking]
        if absent := sorted(one.modalities.keys() - has):
            notes.append(f"lacks {', '.join(absent)}")
        return ShownSample(sample, one.part, str(data.root), config.seed, view, seen.views, crops, rows, notes=notes)
    raise _no_sample(name, known)


def _sets(config: RunConfig, modalities: Modalities) -> list[DataSet]:
    """The data sets that are there, raw or as tokens."""
    train = config.data.train is not None or config.data.tokens is not None
    return [one for one in all_sets(config.data, modalities) if (train if one.training else one.folder is not None)]


def _no_sample(name: str, known: Collection[str]) -> ValueError:
    near = [repr(shown(one)) for one in nearest_few(name, known) or sorted(known)[:1]]
    some = f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}" if near else "which have none"
    return ValueError(f"no sample {shown(name)!r} in data.train or data.val; {some}")

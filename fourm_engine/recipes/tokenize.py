"""Write token shards from raw files and fitted tokenizers: what `fourm tokenize` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fourm_engine.data.aligned import AlignedData
from fourm_engine.data.tally import TokenizeReport
from fourm_engine.data.tokenize import tokenize_split
from fourm_engine.device import local_device, rank_and_world
from fourm_engine.lock import at_work
from fourm_engine.modalities import Modalities, load_manager
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.tell import Progress, Tell, first_only, say, warn
from fourm_engine.storage.url import refuse_remote
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def tokenize(
    config: RunConfig, *, verify: bool = False, prune: bool = False, tell: Tell = say, warn: Tell = warn
) -> dict[str, TokenizeReport]:
    """Write what is new or has changed below `data.tokens`, with the tokenizers of `tokenizers.folder`; under torchrun
    the shards are shared out.

    Args:
        verify: compare files by content, not by size and time.
        prune: drop the tokens of files that have vanished.
        warn: takes a line for each file left out.

    Returns split -> what this process did. Raises ValueError for a tokenizer that is missing, fitted under other
    settings, or another than that of the shards; and BadFile for an unusable file, where `data.on_error` is "raise"."""
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    tokenizers = load_tokenizers(config.tokenizers.folder, modalities.token_spaces, manager, modalities=modalities)
    for name, tokenizer in tokenizers.items():
        recipe = modalities[name].spec.tokenizer
        if recipe is not None and recipe.kind != tokenizer.kind:  # a published one: it stores no settings
            log.warning(
                "%s: tokens are made by the stored tokenizer, of kind %s; the config names %s, which would have to be "
                "fitted (fourm tokenizer fit)",
                name,
                tokenizer.kind,
                recipe.kind,
            )
    return tokenize_data(config, modalities, tokenizers, verify=verify, prune=prune, tell=tell, warn=warn)


def tokenize_data(
    config: RunConfig,
    modalities: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    *,
    verify: bool = False,
    prune: bool = False,
    tell: Tell = say,
    warn: Tell = warn,
) -> dict[str, TokenizeReport]:
    """`tokenize` with given tokenizers, modality -> tokenizer."""
    for tokenizer in {id(t): t for t in tokenizers.values()}.values():
        if isinstance(tokenizer, NeuralTokenizer):
            tokenizer.to(local_device())
    data = config.data
    if data.train is None or data.tokens is None:
        raise ValueError("data.train and data.tokens must be set: the raw data, and where its tokens go")
    refuse_remote(out := data.tokens, "data.tokens", "tokenize into a local folder, then upload that")
    assert isinstance(out, Path)
    rank, world = rank_and_world()
    reports = {}
    for part, root, training in (("train", data.train, True), ("val", data.val, False)):
        if root is None:
            continue
        raw = AlignedData.from_config(modalities, data, training=training)
        first_only(tell)(raw.describe())
        with at_work(out / part, needed=False):
            reports[part] = tokenize_split(
                raw,
                out / part,
                tokenizers,
                data,
                Progress(part, first_only(tell)),
                training=training,
                seed=config.seed,
                rank=rank,
                world=world,
                verify=verify,
                prune=prune,
            )
        for line in reports[part].lines(part, pruned=prune):
            tell(line)
        for line in reports[part].bad:
            warn(f"left out {line}")
    return reports

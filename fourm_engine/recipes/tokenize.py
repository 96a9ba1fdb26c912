"""Implements `fourm tokenize`: writes token shards from raw files, with fitted tokenizers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.sets import DataSet, all_sets, say_unused_lists
from fourm_engine.data.tokens.tally import TokenizeReport
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.device import keep_memory, local_device, rank_and_world
from fourm_engine.lock import at_work
from fourm_engine.modalities import Modalities, load_manager
from fourm_engine.recipes.check_tokens import check_tokens_fresh
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.progress import PrintFn, Progress, choose_threads, first_only, print_line, warn
from fourm_engine.storage.url import refuse_remote
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def tokenize(
    config: RunConfig,
    *,
    verify: bool = False,
    prune: bool = False,
    print_fn: PrintFn = print_line,
    warn: PrintFn = warn,
) -> dict[str, TokenizeReport]:
    """Write new and changed tokens to `data.tokens`, with the tokenizers of `tokenizers.folder`. Under torchrun,
    processes share the shards.

    Args:
        verify: compare files by content, not by size and time.
        prune: drop the tokens of deleted files.
        warn: receives a line for each skipped file that has not been reported yet.

    Returns split ("train", "val", or for a list of data sets "train.0") -> this process's report. Raises ValueError for
    a tokenizer that is missing, was fitted under other settings, or differs from that of the shards; BadFile for an
    unusable file if `data.on_error` is "raise"."""
    manager = load_manager(config.modalities)
    modalities = config.load_modalities(manager)
    tokenizers = load_tokenizers(config.tokenizers.folder, modalities.token_spaces, manager, modalities=modalities)
    for name, tokenizer in tokenizers.items():
        recipe = modalities[name].spec.tokenizer
        if recipe is not None and recipe.kind != tokenizer.kind:  # a published tokenizer, without stored settings
            log.warning(
                "%s: tokens are made by the stored tokenizer, of kind %s; the config names %s, which would have to be "
                "fitted (fourm tokenizer fit)",
                name,
                tokenizer.kind,
                recipe.kind,
            )
    return tokenize_data(config, modalities, tokenizers, verify=verify, prune=prune, print_fn=print_fn, warn=warn)


def tokenize_data(
    config: RunConfig,
    modalities: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    *,
    verify: bool = False,
    prune: bool = False,
    print_fn: PrintFn = print_line,
    warn: PrintFn = warn,
) -> dict[str, TokenizeReport]:
    """`tokenize` with given tokenizers, modality -> tokenizer."""
    for tokenizer in {id(t): t for t in tokenizers.values()}.values():
        if isinstance(tokenizer, NeuralTokenizer):
            tokenizer.to(local_device())
    choose_threads()
    if local_device().type == "cpu":
        keep_memory()  # also that of the workers, which are forked
    rank, world = rank_and_world()
    reports, sets = {}, _with_tokens(config.data, modalities)
    say_unused_lists(one for one in sets if one.training)
    check_tokens_fresh(config, modalities, tokenizers)  # check all before tokenizing the first
    for one in sets:
        name, data = one.name, one.config
        assert isinstance(data.tokens, Path)
        with one.named():
            raw = AlignedData.from_config(one.modalities, data, training=one.training)
            first_only(print_fn)(raw.describe())
            with at_work(folder := data.tokens / one.part, needed=False):
                reports[name] = tokenize_split(
                    raw,
                    folder,
                    {modality: tokenizers[modality] for modality in one.modalities if modality in tokenizers},
                    data,
                    Progress(name, first_only(print_fn)),
                    training=one.training,
                    seed=config.seed,
                    rank=rank,
                    world=world,
                    verify=verify,
                    prune=prune,
                )
        for line in reports[name].lines(name, pruned=prune):
            print_fn(line)
        for line in reports[name].unnamed:
            warn(f"left out {line}")
    return reports


def _with_tokens(data: DataConfig, modalities: Modalities) -> list[DataSet]:
    """Everything to tokenize: the training data, or each entry of the list `data.train` that names a folder for its
    tokens, and the held-out data. Raises ValueError if there is none, or if a folder is remote."""
    sets = [one for one in all_sets(data, modalities) if one.folder is not None and one.config.tokens is not None]
    if not any(one.training for one in sets):
        raise ValueError(
            "data.train and data.tokens must be set: the raw data, and where its tokens go"
            if not data.sets
            else "no entry of the list data.train has both path and tokens: the raw data, and where its tokens go"
        )
    for one in sets:
        key = "data.tokens" if one.entry is None else f"{one.key}.tokens"
        assert one.config.tokens is not None
        refuse_remote(one.config.tokens, key, "tokenize into a local folder, then upload that")
    return sets

"""`fourm tokenize`: from raw files and fitted tokenizers to token shards."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from fourm_engine.modalities import Modalities
    from fourm_engine.recipes.config import RunConfig
    from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def tokenize(
    config: Annotated[Path, typer.Argument(help="YAML config.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")] = None,  # noqa: UP045
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Compare files by content, not by size and time.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the tokens of files that have vanished.")] = False,
) -> None:
    """Turn the data sets of a config into token shards: what is new or has changed is encoded, the rest stays. Under
    torchrun the shards are shared out."""
    from fourm_engine.modalities import load_manager
    from fourm_engine.recipes.config import load_config
    from fourm_engine.tokenizers.store import load_tokenizers

    settings = load_config(config, overrides or [])
    manager = load_manager(settings.modalities)
    modalities = settings.load_modalities(manager)
    tokenizers = load_tokenizers(settings.tokenizers.folder, modalities.token_spaces, manager, modalities=modalities)
    for name, tokenizer in tokenizers.items():
        recipe = modalities[name].spec.tokenizer
        if recipe is not None and recipe.kind != tokenizer.kind:  # a published one, or one from before a change
            log.warning(
                "%s: tokens are made by the stored tokenizer, of kind %s; the config names %s, which would have to be "
                "fitted (fourm tokenizer fit)",
                name,
                tokenizer.kind,
                recipe.kind,
            )
    tokenize_data(settings, modalities, tokenizers, verify=verify, prune=prune)


def tokenize_data(
    settings: RunConfig,
    modalities: Modalities,
    tokenizers: dict[str, Tokenizer],
    *,
    verify: bool = False,
    prune: bool = False,
) -> None:
    """Write the token shards of this process, of both splits."""
    from fourm_engine.cli.progress import Progress
    from fourm_engine.cli.share import local_device, rank_and_world
    from fourm_engine.data.aligned import AlignedData
    from fourm_engine.data.tokenize import tokenize_split
    from fourm_engine.lock import at_work
    from fourm_engine.tokenizers.neural import NeuralTokenizer

    for tokenizer in {id(t): t for t in tokenizers.values()}.values():
        if isinstance(tokenizer, NeuralTokenizer):
            tokenizer.to(local_device())
    config = settings.data
    if config.train is None or config.tokens is None:
        raise ValueError("data.train and data.tokens must be set: the raw data, and where its tokens go")
    rank, world = rank_and_world()
    for part, root, training in (("train", config.train, True), ("val", config.val, False)):
        if root is None:
            continue
        data = AlignedData.from_config(modalities, config, training=training)
        if rank == 0:
            print(data.describe(), flush=True)
        with at_work(config.tokens / part, needed=False):
            report = tokenize_split(
                data,
                config.tokens / part,
                tokenizers,
                config,
                Progress(part, rank),
                training=training,
                seed=settings.seed,
                rank=rank,
                world=world,
                verify=verify,
                prune=prune,
            )
        for line in report.lines(part, pruned=prune):
            print(line, flush=True)
        for line in report.bad:
            print(f"left out {line}", file=sys.stderr)

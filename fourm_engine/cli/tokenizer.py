"""`fourm tokenizer …`: `fit`, from raw files to fitted tokenizers, and `eval`, what their tokens keep."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from fourm_engine.cli import tokenizer_eval

if TYPE_CHECKING:
    from fourm_engine.modalities import Modalities
    from fourm_engine.recipes.config import RunConfig
    from fourm_plugins.manager import PluginManager

log = logging.getLogger(__name__)
app = typer.Typer(help="Fit tokenizers and look at them.", no_args_is_help=True)

Config = Annotated[Path, typer.Argument(help="YAML config.")]
Overrides = Annotated[Optional[list[str]], typer.Argument(help="section.key=value …")]  # noqa: UP045

app.command("eval")(tokenizer_eval.evaluate)


@app.command("fit")
def fit(
    config: Config,
    overrides: Overrides = None,
    *,
    space: Annotated[Optional[list[str]], typer.Option(help="Only this token space; may be repeated.")] = None,  # noqa: UP045
    jobs: Annotated[
        int, typer.Option(min=1, help="Token spaces fitted at the same time, a process each, spread over the GPUs.")
    ] = 1,
    refit: Annotated[bool, typer.Option(help="Replace tokenizers that were fitted under other settings.")] = False,
) -> None:
    """Fit the tokenizer of every token space; one that is up to date is kept, one half done goes on. Where a modality's
    settings are not those that its tokenizer was fitted under, an error says which."""
    from fourm_engine.cli.share import rank_and_world
    from fourm_engine.fit.fitting import check_settings
    from fourm_engine.modalities import activate_kinds, identity, load_manager
    from fourm_engine.recipes.config import load_config
    from fourm_engine.train.distributed import check_same, processes

    settings = load_config(config, overrides or [])
    manager = load_manager(settings.modalities)
    modalities = settings.load_modalities(manager)
    activate_kinds(modalities, manager, maskers=False)
    spaces = modalities.token_spaces
    if unknown := sorted(set(space or ()) - set(spaces)):
        raise ValueError(f"no token space {', '.join(unknown)}; there are {', '.join(spaces)}")
    if not space and (unknown := sorted(set(settings.tokenizers.spaces) - set(spaces))):
        log.warning("tokenizers.spaces: left out, not among %s: %s", ", ".join(spaces), ", ".join(unknown))
    chosen = [name for name in spaces if not space or name in space]
    if not refit:  # of all, before the first is fitted
        for name in chosen:
            check_settings([modalities[spec.name] for spec in spaces[name]], settings.tokenizers.folder, manager)
    rank, world = rank_and_world()
    if jobs > 1 and world > 1:
        raise ValueError("--jobs is for one machine; under torchrun all processes fit one token space after another")
    if jobs > 1 and len(chosen) > 1:
        on_gpu = {name for name in chosen if settings.tokenizers.fit_of(name).device != "cpu"}
        _fit_in_processes(config, [*(overrides or []), *["--refit"] * refit], chosen, jobs, on_gpu)
        return
    manager.freeze()
    _check_usable(settings, modalities, [spec.name for name in chosen for spec in spaces[name]])
    with processes(settings.tokenizers.fit):  # joined once for all spaces
        check_same(identity(modalities, manager))
        for name in chosen:
            for line in fit_space(settings, manager, modalities, name, refit=refit):
                if rank == 0:
                    print(line, flush=True)


def _check_usable(settings: RunConfig, modalities: Modalities, names: list[str]) -> None:
    """Raise ValueError where one of several modalities has no file that can be used, before the first is fitted."""
    from fourm_engine.data.aligned import AlignedData

    if settings.data.train is not None:
        AlignedData.from_config(modalities, settings.data, training=True).check_usable(names)


def visible_gpus() -> list[str]:
    """What names each GPU that this process sees in CUDA_VISIBLE_DEVICES: numbers, or the names given there."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else [x.strip() for x in named.split(",")][:count]


def least_busy(gpus: Sequence[str], taken: Iterable[str]) -> str | None:
    """The GPU with the fewest jobs, the first of equals; None where there is none."""
    jobs = Counter(taken)
    return min(gpus, key=lambda gpu: jobs[gpu], default=None)


def _fit_in_processes(
    config: Path, arguments: list[str], spaces: list[str], jobs: int, on_gpu: Container[str] = ()
) -> None:
    """Each space in a process of its own; those `on_gpu` are spread over the GPUs, one a process. All are let finish;
    the error says which failed. What stops this process (Ctrl-C, SIGTERM, SIGHUP) stops them once, so that each saves
    what it has."""
    command = [sys.executable, "-m", "fourm_engine.cli", "tokenizer", "fit", str(config), *arguments, "--space"]
    waiting, running, failed = list(spaces), dict[str, subprocess.Popen[bytes]](), list[str]()
    gpus, places = visible_gpus(), dict[str, str]()  # of the spaces that are running
    stops = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in stops}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                space = waiting.pop(0)
                # In a session of its own: a terminal's Ctrl-C would reach it beside our signal, and two end it at once.
                environment = dict(os.environ)
                if space in on_gpu and (gpu := least_busy(gpus, places.values())) is not None:
                    environment["CUDA_VISIBLE_DEVICES"] = places[space] = gpu
                    print(f"tokenizer {space}: on GPU {gpu}", flush=True)
                running[space] = subprocess.Popen([*command, space], env=environment, start_new_session=True)
            time.sleep(0.1)
            for space, process in list(running.items()):
                if process.poll() is not None:
                    del running[space]
                    places.pop(space, None)
                    failed += [space] * (process.returncode != 0)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        raise ValueError(f"fitting failed for {', '.join(failed)}; the reason is above")


def fit_space(
    settings: RunConfig, manager: PluginManager, modalities: Modalities, space: str, *, refit: bool = False
) -> list[str]:
    """Fit one token space (`refit`: see `fit_tokenizer`); a line for each of its modalities, and for what was left
    out."""
    from fourm_engine.lock import at_work

    with at_work(settings.tokenizers.folder / space, replaced=True, needed=False):
        return _fit_space(settings, manager, modalities, space, refit=refit)


def _fit_space(
    settings: RunConfig, manager: PluginManager, modalities: Modalities, space: str, *, refit: bool
) -> list[str]:
    from fourm_engine.data.aligned import AlignedData
    from fourm_engine.data.views import ViewDrawer
    from fourm_engine.fit.fitting import base_first, fit_tokenizer
    from fourm_engine.fit.samples import at_sizes, held_out_values, training_arrays

    data, began = settings.data, time.monotonic()
    if data.train is None:
        raise ValueError("data.train is not set: name the folder of the training data")
    fit_config = settings.tokenizers.fit_of(space)
    members = base_first([modalities[spec.name] for spec in modalities.token_spaces[space]])
    # All modalities take part in reading: the crop of a box list depends on the picture beside it.
    raw = AlignedData.from_config(modalities, data, training=True)
    drawer = ViewDrawer.from_config(modalities, data, training=True, seed=settings.seed)
    is_grid, cache = members[0].spec.layout.kind == "grid", fit_config.cache_mb << 20
    if settings.tokenizers.adapts(space) and not is_grid:
        raise ValueError(f"tokenizers.spaces.{space}.adapt: {members[0].name} is no grid, so it has one size only")
    sizes = fit_config.adapt.sizes if fit_config.adapt is not None and is_grid else ()
    if sizes:
        cache //= 2  # one half for its own size, one for the others
    names = [member.name for member in members]
    train = {m: training_arrays(raw, m, drawer, views=data.views, cache_bytes=cache) for m in names}
    val: dict[str, list[Any]] = {}
    held: AlignedData | None = None
    if data.val is not None:
        held = AlignedData.from_config(modalities, data, training=False)
        centre = ViewDrawer.from_config(modalities, data, training=False)
        val = {m: held_out_values(held, m, centre) for m in names}
    others = at_sizes(members[0], sizes, raw, held, data, seed=settings.seed, cache_bytes=cache) if sizes else []
    folder = settings.tokenizers.folder
    fitted = fit_tokenizer(
        members, train, val, fit_config, folder, manager, seed=settings.seed, sizes=others, refit=refit
    )
    took = f"fitted in {time.monotonic() - began:.0f} s" if fitted.fresh else "up to date"
    lines = [f"for tokenizer {space}, {part.describe()}" for part in (raw, held) if part is not None]
    lines += [f"tokenizer {space}: {n} files of {name} left out, see above" for name, n in sorted(raw.errors.items())]
    for name, scores in fitted.report.items():
        shown = ", ".join(f"{metric} {value:.4g}" for metric, value in scores.items())
        lines.append(f"tokenizer {space}, {name}: {shown or 'no held-out samples'} ({took})")
    return lines
